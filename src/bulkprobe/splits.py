"""Which patient is trained on and which is tested: repeated splits, stratified, never two sides for a patient.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, DOI 10.1007/978-3-642-23808-6_10) keeps the
share of every stratum of every column at once. Here it works on groups, so that a whole tissue source site can
be kept on one side, and ends with a repair that moves groups while that brings a stratum nearer to its share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from bulkprobe.errors import UserError, some

Scheme = Literal["random", "site"]
RARE = 5  # patients; strata smaller than this are merged within their column
COLUMNS = ["task", "label", "split", "fold", "patient_id", "role", "site"]
MISSING = "unknown"  # a label that a patient lacks is a stratum of its own
TOLERATED = 0.999  # patients off its exact share that a stratum may be before the repair treats it as a fault
FAULT_WEIGHT = 100.0  # how much more a fault weighs than a deviation within one patient
PATIENCE = 3  # moves tried with an answer before the repair of single patients gives up
GROUP_PATIENCE = 24  # the same for groups, which are fewer and fit together less well
MAX_REPAIRS = 500  # moves or exchanges of the repair; a handful is usual

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cohort:
    """The patients and labels that are split together.

    types: cancer type of each patient. labels: one column a label without its cohort ("TP53", "OS"), values
    bool (mutation status, event) or NA where the patient lacks it. sites: tissue source site. All three are
    indexed by patient id and may stand in any order.
    """

    task: Literal["mutation", "survival"]
    name: str
    types: pd.Series
    labels: pd.DataFrame
    sites: pd.Series


def make_splits(
    strata: pd.DataFrame,
    sites: pd.Series,
    *,
    n_splits: int = 10,
    test_fraction: float = 0.2,
    inner_folds: int,
    seed: int,
    scheme: Scheme = "random",
    name: str = "",
) -> pd.DataFrame:
    """Split patients `n_splits` times into test and training part, and the training part into inner folds.

    strata: index patient id; every column is a stratification, all are kept at once. Within a column, values
    of fewer than RARE patients are merged into one stratum. sites: index patient id; under scheme "site" no site
    stands on both sides of a split or in two inner folds. Seeds derive from (seed, name, split), so neither
    the order of the rows and columns nor another cohort changes the outcome.

    Returns split, fold (-1 on test rows), patient_id, role, site, sorted by split and patient.
    Raises UserError on repeated patients, impossible fractions, or too few patients or sites.
    """
    _check_settings(n_splits, test_fraction, inner_folds, scheme)
    _check_patients(strata, sites, name)
    strata = strata.sort_index(axis=0).sort_index(axis=1)
    site = sites.reindex(strata.index)
    if scheme == "site" and site.isna().any():
        raise UserError(
            f"Cohort {name!r}: {some(strata.index[site.isna()])} have no tissue source site, but splits.scheme is "
            "'site'; give their sites or use scheme 'random'"
        )
    site_names = site.astype(object).where(site.notna(), "").astype(str).to_numpy(dtype=object)
    codes = _stratum_codes(strata)
    units = np.unique(site_names, return_inverse=True)[1] if scheme == "site" else np.arange(len(strata))
    n_units = int(units.max()) + 1
    if n_units < inner_folds + 1:
        what = "tissue source sites" if scheme == "site" else "patients"
        raise UserError(
            f"Cohort {name!r} has {n_units} {what}, too few for a test part and {inner_folds} inner folds; "
            "use fewer inner folds, leave the cohort out, or use scheme 'random'"
        )
    shares = np.array([1.0 - test_fraction, test_fraction])
    parts = []
    for split in range(n_splits):
        outer, inner = np.random.SeedSequence([seed, _name_entropy(name), split]).spawn(2)
        test = _partition(codes, units, shares, np.random.default_rng(outer)) == 1
        fold = np.full(len(strata), -1, dtype=np.int16)
        train = np.flatnonzero(~test)
        train_units = np.unique(units[train], return_inverse=True)[1]
        equal = np.full(inner_folds, 1.0 / inner_folds)
        fold[train] = _partition(codes[train], train_units, equal, np.random.default_rng(inner))
        role = np.where(test, "test", "train")
        columns = {"fold": fold, "patient_id": strata.index.to_numpy(dtype=object), "role": role, "site": site_names}
        part = pd.DataFrame(columns, index=pd.RangeIndex(len(strata)))
        part.insert(0, "split", np.int16(split))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def assemble(
    cohorts: Sequence[Cohort],
    *,
    n_splits: int = 10,
    test_fraction: float = 0.2,
    inner_folds: int,
    seed: int,
    scheme: Scheme = "random",
) -> pd.DataFrame:
    """Build the splits table of all cohorts: task, label ("<cohort>/<label>"), split, fold, patient, role, site.

    Within a cohort all labels share one split of its patients, stratified by cancer type, by the status of every
    label, and by every (cancer type x label status), all at once. A label's rows leave out patients who lack it.
    Texts are categories. Rows are sorted by task, label, split and patient.
    """
    parts = []
    keys = [f"{cohort.task}:{cohort.name}" for cohort in cohorts]
    if len(set(keys)) < len(keys):
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        raise UserError(f"Cohorts stand twice in the splits: {some(repeated)}; name each cohort once")
    split = partial(
        make_splits, n_splits=n_splits, test_fraction=test_fraction, inner_folds=inner_folds, seed=seed, scheme=scheme
    )
    for key, cohort in zip(keys, cohorts, strict=True):
        known = cohort.labels.dropna(how="all")
        if known.empty:
            raise UserError(
                f"Cohort {cohort.name!r} of task {cohort.task!r} has no labelled patient; leave it out of the labels"
            )
        table = split(_cohort_strata(cohort.types, known), cohort.sites, name=key)
        for label in known.columns:
            has_label = known.index[known[label].notna()]
            rows = table[table["patient_id"].isin(has_label)]
            parts.append(rows.assign(task=cohort.task, label=f"{cohort.name}/{label}"))
    if not parts:
        raise UserError("There is no cohort to split; give at least one label in params.yaml")
    whole = pd.concat(parts, ignore_index=True)[COLUMNS]
    whole = whole.sort_values(["task", "label", "split", "patient_id"], kind="stable", ignore_index=True)
    for column in ("task", "label", "patient_id", "role", "site"):
        whole[column] = pd.Categorical(whole[column], categories=sorted(whole[column].unique()))
    return whole


def _cohort_strata(types: pd.Series, labels: pd.DataFrame) -> pd.DataFrame:
    """Cancer type, label status, and cancer type x label status, each a column of texts."""
    missing = labels.index.difference(types.dropna().index)
    if len(missing):
        raise UserError(f"Patients without a cancer type: {some(missing)}; give every labelled patient its type")
    kind = types.reindex(labels.index).astype(str)
    columns = {"type": kind}
    for label in labels.columns:
        status = labels[label].astype("boolean").astype("string").fillna(MISSING).astype(str)
        columns[f"status {label}"] = status
        columns[f"type x {label}"] = kind + " " + status
    return pd.DataFrame(columns, index=labels.index)


def _check_settings(n_splits: int, test_fraction: float, inner_folds: int, scheme: str) -> None:
    if scheme not in get_args(Scheme):
        raise UserError(f"splits.scheme is {scheme!r}; it must be one of {', '.join(get_args(Scheme))}")
    if n_splits < 1:
        raise UserError(f"splits.n_splits is {n_splits}; at least 1 is needed")
    if not 0.0 < test_fraction < 1.0:
        raise UserError(f"splits.test_fraction is {test_fraction}; it must lie between 0 and 1")
    if inner_folds < 2:
        raise UserError(f"splits.inner_folds is {inner_folds}; at least 2 are needed to choose a penalty")


def _check_patients(strata: pd.DataFrame, sites: pd.Series, name: str) -> None:
    for what, index in (("the strata", strata.index), ("the sites", sites.index)):
        if index.has_duplicates:
            repeated = index[index.duplicated()].unique()
            raise UserError(f"Cohort {name!r}: patients stand twice in {what}: {some(repeated)}; keep one row each")
    if strata.shape[1] == 0:
        raise UserError(f"Cohort {name!r} has no stratum to split by; give at least the cancer type")
    if strata.isna().to_numpy().any():
        bad = strata.index[strata.isna().any(axis=1)]
        raise UserError(f"Cohort {name!r}: patients with an empty stratum: {some(bad)}; name the missing value")


def _name_entropy(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _stratum_codes(strata: pd.DataFrame) -> Ints:
    """Number the strata of all columns in one go: (n_patients, n_columns + 1); the last column is everybody."""
    columns = []
    start = 0
    for column in strata.columns:
        values = strata[column].to_numpy(dtype=object).astype(str)
        _, code, count = np.unique(values, return_inverse=True, return_counts=True)
        code = np.where(count[code] < RARE, len(count), code)
        code = np.unique(code, return_inverse=True)[1]
        columns.append(code + start)
        start += int(code.max()) + 1
    columns.append(np.full(len(strata), start))
    return np.stack(columns, axis=1).astype(np.int64)


def _partition(codes: Ints, units: Ints, shares: Floats, rng: np.random.Generator) -> Ints:
    """Give every patient a side so that sides get their shares of every stratum; a unit stays whole.

    codes: (n_patients, n_columns) stratum numbers; units: (n_patients,) numbers 0..n_units-1.
    """
    n_units, n_strata = int(units.max()) + 1, int(codes.max()) + 1
    content = _Content.of(codes, units, n_strata)
    side = np.full(n_units, -1, dtype=np.int64)
    if n_units == len(units):  # single patients: those alike in all strata are first dealt out in whole shares
        side[units] = _deal_alike(codes, shares, rng)
    lack: Floats = shares[:, None] * np.bincount(codes.ravel(), minlength=n_strata)  # (side, stratum)
    for number in range(len(shares)):
        lack[number] -= np.bincount(codes[side[units] == number].ravel(), minlength=n_strata)
    _assign_rarest_first(content, lack, side, rng)
    _fill_empty_sides(content, lack, side)
    _repair(content, lack, side)
    return side[units]


@dataclass(frozen=True)
class _Content:
    """How many patients of each stratum each unit holds: a sparse table by unit; unit u has start[u]:start[u + 1]."""

    unit: Ints
    stratum: Ints
    count: Floats
    start: Ints

    @classmethod
    def of(cls, codes: Ints, units: Ints, n_strata: int) -> _Content:
        key, count = np.unique(units[:, None] * n_strata + codes, return_counts=True)
        unit = key // n_strata
        start = np.searchsorted(unit, np.arange(int(units.max()) + 2))
        return cls(unit, key % n_strata, count.astype(np.float64), start)

    def move(self, unit: int, to: int, lack: Floats, side: Ints) -> None:
        """Bring a unit to a side; -1 is the side of those not yet assigned."""
        span = slice(int(self.start[unit]), int(self.start[unit + 1]))
        if side[unit] >= 0:
            lack[side[unit], self.stratum[span]] += self.count[span]
        lack[to, self.stratum[span]] -= self.count[span]
        side[unit] = to


def _deal_alike(codes: Ints, shares: Floats, rng: np.random.Generator) -> Ints:
    """Deal patients with the same strata out in whole shares; the rest of each kind stays open (-1)."""
    kind, size = np.unique(codes, axis=0, return_inverse=True, return_counts=True)[1:]
    order = np.lexsort((rng.random(len(codes)), kind.ravel()))
    # A hair is added before rounding down, so that 5 x 0.2 is a whole patient.
    ends = np.cumsum(np.floor(size[:, None] * shares + 1e-9), axis=1)
    place = np.arange(len(codes)) - np.repeat(np.cumsum(size) - size, size)
    dealt = (place[:, None] >= np.repeat(ends, size, axis=0)).sum(axis=1)
    side = np.empty(len(codes), dtype=np.int64)
    side[order] = np.where(dealt < len(shares), dealt, -1)
    return side


def _assign_rarest_first(content: _Content, lack: Floats, side: Ints, rng: np.random.Generator) -> None:
    """Sechidis' loop: the rarest open stratum first, each unit to the side that lacks it most.

    Ties go to the side that lacks most patients in all, then to chance. `lack` and `side` are filled in place.
    """
    by_stratum = np.argsort(content.stratum, kind="stable")
    bounds = np.searchsorted(content.stratum[by_stratum], np.arange(lack.shape[1] + 1))
    while (side < 0).any():
        waiting = side[content.unit] < 0
        left = np.bincount(content.stratum[waiting], content.count[waiting], minlength=lack.shape[1])
        rarest = int(np.argmin(np.where(left > 0, left, np.inf)))
        entries = by_stratum[bounds[rarest] : bounds[rarest + 1]]
        entries = entries[waiting[entries]]
        # The largest groups first, while there is still room to even them out.
        entries = entries[np.lexsort((rng.random(len(entries)), -content.count[entries]))]
        for unit, draw in zip(content.unit[entries].tolist(), rng.random((len(entries), len(lack))), strict=True):
            want = np.round(lack[:, [rarest, -1]], 9)
            content.move(unit, int(np.lexsort((draw, want[:, 1], want[:, 0]))[-1]), lack, side)


def _fill_empty_sides(content: _Content, lack: Floats, side: Ints) -> None:
    """Give a side that got no unit the smallest unit of the side that has most."""
    size = content.count[content.start[1:] - 1]  # the last stratum is everybody
    for number in range(len(lack)):
        if not (side == number).any():
            giver = np.argmax(np.bincount(side, minlength=len(lack)))
            candidates = np.flatnonzero(side == giver)
            content.move(int(candidates[np.argmin(size[candidates])]), number, lack, side)


def _badness(lack: Floats) -> Floats:
    off = np.abs(lack)
    fault: Floats = np.maximum(off - TOLERATED, 0.0)
    result: Floats = off * off + FAULT_WEIGHT * (fault * fault + fault)
    return result


def _repair(content: _Content, lack: Floats, side: Ints) -> None:
    """Make the best move of a unit while it helps, else together with its best answer, until neither does."""
    n_sides, n_units = len(lack), len(side)
    sizes = np.unique(content.count)
    level = np.searchsorted(sizes, content.count)
    entry = (level * lack.shape[1] + content.stratum).astype(np.intp)  # where an entry looks up its change
    spread = sparse.csr_array((np.ones(len(entry)), entry, content.start), shape=(n_units, len(sizes) * lack.shape[1]))
    units = np.arange(n_units)
    patience = PATIENCE if len(sizes) == 1 else GROUP_PATIENCE

    def changes() -> Floats:
        """Change of badness for every (unit, new side)."""
        now = _badness(lack)
        leave = np.stack([_badness(lack + size) - now for size in sizes], axis=1).reshape(n_sides, -1)
        enter = np.stack([_badness(lack - size) - now for size in sizes], axis=1).reshape(n_sides, -1)
        table = spread @ np.concatenate([leave, enter]).T  # (unit, leave and enter of each side)
        result: Floats = table[units, side][:, None] + table[:, n_sides:]
        crowd = np.bincount(side, minlength=n_sides)
        result[units, side] = np.inf
        result[crowd[side] == 1] = np.inf  # a side is never emptied
        return result

    for _ in range(MAX_REPAIRS):
        change = changes()
        unit, to = divmod(int(np.argmin(change)), n_sides)
        if change[unit, to] < -1e-9:
            content.move(unit, to, lack, side)
            continue
        if not (np.abs(lack) > TOLERATED).any():
            return
        for candidate in np.argsort(change, axis=None, kind="stable")[:patience].tolist():
            unit, to = divmod(candidate, n_sides)
            first = change[unit, to]
            if not np.isfinite(first):
                return
            origin = int(side[unit])
            content.move(unit, to, lack, side)
            answer = changes()
            answer[unit] = np.inf
            reply = int(np.argmin(answer))
            if first + answer.flat[reply] < -1e-9:
                content.move(*divmod(reply, n_sides), lack, side)
                break
            content.move(unit, origin, lack, side)
        else:
            return
