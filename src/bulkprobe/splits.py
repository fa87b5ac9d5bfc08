"""Which patient is trained on and which is tested: repeated splits, stratified, never two sides for a patient.

Across cancer types a split keeps each type's share exactly and each label's share nearly; it does not keep the share
of every (type x label). That would make a type's share of mutated patients the same in training and test part: a model
that learns the shares from the training part would then know them of the test part. Labels shuffled over all patients
come out above 0.5 that way (AUROC 0.526 ± 0.004, twenty cohorts of 2,130 patients and 20 types). Within one cancer type
there is no such knowledge, and the statuses of all labels are kept jointly.

Labels are balanced by re-randomisation (Morgan and Rubin 2012, DOI 10.1214/12-AOS1008): of many random splits the one
is taken whose label shares lie nearest to their targets. Only totals over all types decide, so that which patients of
a status are tested stays random.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from bulkprobe.errors import UserError, some

Scheme = Literal["random", "site"]
RARE = 5  # patients; strata smaller than this are merged
CANDIDATES = 200  # random splits of which the best balanced one is taken
COLUMNS = ["task", "label", "split", "fold", "patient_id", "role", "site"]
MISSING = "unknown"  # the status of a patient who lacks a label

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
    strata: pd.Series,
    balanced: pd.DataFrame,
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

    strata: index patient id; each stratum keeps its share to within one patient (strata of fewer than RARE patients
    are merged into one). balanced: same index; the share of each value of each column comes as near as the best of
    CANDIDATES random splits. Under scheme "site" no site stands on both sides of a split or in two inner folds, and
    strata are kept as nearly as whole sites allow. Seeds derive from (seed, name, split), so neither the order of
    rows and columns nor another cohort changes the outcome.

    Returns split, fold (-1 on test rows), patient_id, role, site, sorted by split and patient.
    Raises UserError on repeated patients, impossible fractions, or too few patients or sites.
    """
    _check_settings(n_splits, test_fraction, inner_folds, scheme)
    _check_patients(strata, balanced, sites, name)
    strata = strata.sort_index()
    balanced = balanced.reindex(strata.index).sort_index(axis=1)
    site = sites.reindex(strata.index)
    if scheme == "site" and site.isna().any():
        raise UserError(
            f"Cohort {name!r}: {some(strata.index[site.isna()])} have no tissue source site, but splits.scheme is "
            "'site'; give their sites or use scheme 'random'"
        )
    site_names = site.astype(object).where(site.notna(), "").astype(str).to_numpy(dtype=object)
    units = np.unique(site_names, return_inverse=True)[1] if scheme == "site" else np.arange(len(strata))
    if len(np.unique(units)) < inner_folds + 1:
        what = "tissue source sites" if scheme == "site" else "patients"
        raise UserError(
            f"Cohort {name!r} has {len(np.unique(units))} {what}, too few for a test part and {inner_folds} inner "
            "folds; use fewer inner folds, leave the cohort out, or use scheme 'random'"
        )
    stratum = _merge_rare(strata.astype(str).to_numpy(dtype=object))
    columns = [balanced[column].astype(str).to_numpy(dtype=object) for column in balanced]
    counted = _indicators([*columns, stratum] if scheme == "site" else columns, len(strata))
    parts = []
    for split in range(n_splits):
        outer, inner = np.random.SeedSequence([seed, _name_entropy(name), split]).spawn(2)
        shares = np.array([1.0 - test_fraction, test_fraction])
        test = _best_of(_drawer(stratum, units, shares, scheme), counted, shares, np.random.default_rng(outer)) == 1
        fold = np.full(len(strata), -1, dtype=np.int16)
        equal = np.full(inner_folds, 1.0 / inner_folds)
        draw = _drawer(stratum[~test], units[~test], equal, scheme)
        fold[~test] = _best_of(draw, counted[~test], equal, np.random.default_rng(inner))
        role = np.where(test, "test", "train")
        content = {"fold": fold, "patient_id": strata.index.to_numpy(dtype=object), "role": role, "site": site_names}
        part = pd.DataFrame(content, index=pd.RangeIndex(len(strata)))
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

    Within a cohort all labels share one split of its patients. Strata are the cancer types; in a cohort of one type,
    the joint statuses of its labels. A label's rows leave out patients who lack it. Texts are categories. Rows are
    sorted by task, label, split and patient.
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
        untyped = known.index.difference(cohort.types.dropna().index)
        if len(untyped):
            raise UserError(f"Patients without a cancer type: {some(untyped)}; give every labelled patient its type")
        types = cohort.types.reindex(known.index).astype(str)
        statuses = known.sort_index(axis=1).apply(_status)
        strata = statuses.agg(" ".join, axis=1) if types.nunique() == 1 else types
        table = split(strata, statuses, cohort.sites, name=key)
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


def _status(label: pd.Series) -> pd.Series:
    return label.astype("boolean").astype("string").fillna(MISSING).astype(str)


def _check_settings(n_splits: int, test_fraction: float, inner_folds: int, scheme: str) -> None:
    if scheme not in get_args(Scheme):
        raise UserError(f"splits.scheme is {scheme!r}; it must be one of {', '.join(get_args(Scheme))}")
    if n_splits < 1:
        raise UserError(f"splits.n_splits is {n_splits}; at least 1 is needed")
    if not 0.0 < test_fraction < 1.0:
        raise UserError(f"splits.test_fraction is {test_fraction}; it must lie between 0 and 1")
    if inner_folds < 2:
        raise UserError(f"splits.inner_folds is {inner_folds}; at least 2 are needed to choose a penalty")


def _check_patients(strata: pd.Series, balanced: pd.DataFrame, sites: pd.Series, name: str) -> None:
    for what, index in (("the strata", strata.index), ("the sites", sites.index)):
        if index.has_duplicates:
            repeated = index[index.duplicated()].unique()
            raise UserError(f"Cohort {name!r}: patients stand twice in {what}: {some(repeated)}; keep one row each")
    if not strata.index.sort_values().equals(balanced.index.sort_values()):
        raise UserError(f"Cohort {name!r}: strata and labels are not of the same patients; give both for each patient")
    empty = strata.isna() | balanced.reindex(strata.index).isna().any(axis=1)
    if empty.any():
        raise UserError(
            f"Cohort {name!r}: patients with an empty stratum: {some(strata.index[empty])}; name the missing value"
        )


def _name_entropy(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _merge_rare(values: npt.NDArray[np.object_]) -> Ints:
    """Number the strata; all with fewer than RARE patients are one."""
    _, code, count = np.unique(values.astype(str), return_inverse=True, return_counts=True)
    merged = np.where(count[code] < RARE, len(count), code)
    return np.unique(merged, return_inverse=True)[1].astype(np.int64)


def _indicators(columns: Sequence[npt.NDArray[np.generic]], n: int) -> Floats:
    """One column of 0 and 1 for each value of each column, and one for everybody: (n_patients, n_values)."""
    parts = [np.ones((n, 1))]
    for column in columns:
        values = column.astype(str)
        parts.append((values[:, None] == np.unique(values)).astype(np.float64))
    return np.concatenate(parts, axis=1)


Drawer = Callable[[np.random.Generator], Ints]


def _drawer(stratum: Ints, units: Ints, shares: Floats, scheme: Scheme) -> Drawer:
    return partial(_draw_sites if scheme == "site" else _draw_patients, stratum, units, shares)


def _draw_patients(stratum: Ints, units: Ints, shares: Floats, rng: np.random.Generator) -> Ints:
    """One random split of single patients: a side number each.

    Patients are lined up stratum by stratum, in random order within, and the sides taken in turn at regular distances
    from a random start, so that every stratum and the whole keep every side's share to within a patient.
    """
    order = np.lexsort((rng.random(len(stratum)), rng.permutation(int(stratum.max()) + 1)[stratum]))
    side = np.empty(len(stratum), dtype=np.int64)
    if len(shares) == 2:
        steps = np.floor(np.arange(len(stratum) + 1) * shares[1] + rng.random())
        side[order] = np.diff(steps) > 0
    else:  # equal shares
        side[order] = (np.arange(len(stratum)) + rng.integers(len(shares))) % len(shares)
        side = rng.permutation(len(shares))[side]
    return side


def _draw_sites(stratum: Ints, units: Ints, shares: Floats, rng: np.random.Generator) -> Ints:
    """One random split of whole sites: each goes, in random order, to the side that lacks most of its main stratum."""
    names, unit = np.unique(units, return_inverse=True)
    content = np.zeros((len(names), int(stratum.max()) + 1))
    np.add.at(content, (unit, stratum), 1.0)
    lack = shares[:, None] * content.sum(axis=0)  # (side, stratum)
    side = np.empty(len(names), dtype=np.int64)
    for place in rng.permutation(len(names)):
        main = int(content[place].argmax())
        # In random order and in proportion to what is lacking, so that small sides get large sites too.
        want = np.maximum(lack[:, main], 0.0)
        side[place] = rng.choice(len(shares), p=want / want.sum()) if want.sum() > 0 else int(lack.sum(axis=1).argmax())
        lack[side[place]] -= content[place]
    return side[unit]


def _best_of(draw: Drawer, counted: Floats, shares: Floats, rng: np.random.Generator) -> Ints:
    """Of CANDIDATES random splits the one whose worst label share is nearest to its target, in standard errors."""
    total = counted.sum(axis=0)
    spread = np.sqrt(np.maximum(total * shares[:, None] * (1 - shares[:, None]), 1.0))
    best, least = np.empty(0, dtype=np.int64), np.inf
    for _ in range(CANDIDATES):
        side = draw(rng)
        got = np.stack([counted[side == number].sum(axis=0) for number in range(len(shares))])
        worst = float((np.abs(got - shares[:, None] * total) / spread).max())
        if (got[:, 0] == 0).any():
            worst += 1e6  # an empty side only where every candidate has one
        if worst < least:
            best, least = side, worst
    if least >= 1e6:
        raise UserError(
            "none of the random splits gives every side a tissue source site: use fewer inner folds or scheme 'random'"
        )
    return best
