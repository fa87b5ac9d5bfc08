"""The mutation probe: is this gene mutated in this tumour?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bulkprobe.errors import UserError, some
from bulkprobe.probes import units
from bulkprobe.probes.arrays import Floats, Ints
from bulkprobe.probes.metrics import Undefined, WithinType, auroc, average_precision, within_type_auroc
from bulkprobe.probes.transform import Transform
from bulkprobe.probes.tuning import (
    Choice,
    LabelledPart,
    Selection,
    Settings,
    Variant,
    check_penalties,
    has_both_classes,
    tune_logistic_parts,
)

PAN_CANCER = "pan_cancer"
HOTSPOT = "_hotspot"  # ends the label of hot-spot mutations
INFORMATIVE_PATIENTS = 15  # a type is informative with more than this many patients of either status (Way 2018)
INFORMATIVE_SHARE = 0.05  # and with more than this share of either
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Scored:
    """One label and split: rows of the tested patients; scores and choice of each variant, or why there are none."""

    rows: Ints
    scores: Mapping[Variant, Floats]
    choices: Mapping[Variant, Choice]
    reason: str | None


def probe_mutation(
    embedding: units.Rows,
    patients: Sequence[str],
    types: pd.Series,
    labels: pd.DataFrame,
    splits: pd.DataFrame,
    *,
    transform: Transform,
    penalties: Sequence[float],
    selection: Selection = "lowest",
    common_width: int | None = None,
    hypermutated: pd.Series | None = None,
    min_positives: int = 10,
    n_jobs: int = 2,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train and test a ridge logistic regression for every label and split.

    embedding: (n_patients, width), a row for each of `patients`. types: cancer type by patient id. labels: index
    patient id, columns "<cohort>/<gene>", values bool, NA where not profiled (left out, never wild type).
    splits: the table of `splits.assemble`. hypermutated: bool or NA by patient id; only patients flagged True are
    left out of "without_hypermutated", which is null where no flag of the label's patients is known. That and
    "informative_types" are other sets of test patients, scored by the same models. "common_width" is another probe,
    of the first common_width principal components. A label with fewer than min_positives positives or negatives is
    not probed: null with counts.

    Returns the "labels" part of the metrics file and the predictions; a score is the linear predictor, that is
    log-odds, higher = more likely mutated. Byte-equal for any order of patients and any n_jobs.
    """
    index = units.check_embedding(embedding, patients)
    settings = Settings(check_penalties(penalties), transform, selection, common_width)
    parts = units.parts_of(splits, "mutation", [str(label) for label in labels.columns], index)
    truth = _truth(labels, index, parts)
    kind = units.by_patient(types, index, "the cancer types")
    flags = None
    if hypermutated is not None:
        flags = units.by_patient(hypermutated, index, "the hypermutation flags").astype("boolean")
    known = {label: _known(parts[label], truth[label]) for label in parts}
    too_few = {label: _too_few(truth[label], rows, min_positives) for label, rows in known.items()}
    _check_types(kind, known)
    scored = _run(embedding, parts, truth, too_few, settings, n_jobs)
    metrics = {}
    columns: dict[str, list[Any]] = {key: [] for key in ("label", "split", "patient_id", "score", "truth")}
    names = index.to_numpy(dtype=object)
    for label, of_label in parts.items():
        status = truth[label].to_numpy(dtype=float, na_value=np.nan) == 1.0
        flagged = None
        # A cohort whose burden nobody knows has no result without its hypermutated tumours.
        if flags is not None and flags.iloc[known[label]].notna().any():
            flagged = flags.fillna(False).to_numpy(dtype=bool)
        metrics[label] = _label_metrics(
            of_label, scored, known[label], status, kind.to_numpy(dtype=object), flagged, too_few[label], settings
        )
        for part in of_label:
            result = scored.get((label, part.split))
            if result is not None and result.reason is None:
                columns["label"] += [label] * len(result.rows)
                columns["split"] += [part.split] * len(result.rows)
                columns["patient_id"] += names[result.rows].tolist()
                columns["score"] += result.scores["own"].tolist()
                columns["truth"] += status[result.rows].tolist()
    missing = [None] * len(columns["label"])
    whole = {**columns, "task": ["mutation"] * len(missing), "time": missing, "event": missing}
    return metrics, units.prediction_table(whole)


def _truth(labels: pd.DataFrame, index: pd.Index, parts: dict[str, list[units.Part]]) -> pd.DataFrame:
    """Labels in the order of the embedding, as nullable bool."""
    if labels.index.has_duplicates:
        repeated = labels.index[labels.index.duplicated()].unique()
        raise UserError(f"Patients stand twice in the labels: {some(repeated)}; keep one row for each patient")
    used = index[np.unique(np.concatenate([part.rows for of in parts.values() for part in of]))]
    missing = used.difference(labels.index)
    if len(missing):
        raise UserError(f"Patients of the splits table have no label row: {some(missing)}; make the splits again")
    return labels.reindex(index).astype("boolean")


def _known(parts: Sequence[units.Part], truth: pd.Series) -> Ints:
    """Rows of all patients of a label who were profiled."""
    rows = np.unique(np.concatenate([part.rows for part in parts]))
    return np.asarray(rows[truth.notna().to_numpy()[rows]])


def _check_types(kind: pd.Series, known: dict[str, Ints]) -> None:
    used = np.unique(np.concatenate(list(known.values()))) if known else np.zeros(0, dtype=np.int64)
    untyped = kind.index[used][kind.isna().to_numpy()[used]]
    if len(untyped):
        raise UserError(f"Patients without a cancer type: {some(untyped)}; give every labelled patient its type")


def _too_few(truth: pd.Series, rows: Ints, min_positives: int) -> str | None:
    positives = int(truth.iloc[rows].sum())
    counts = f"{positives} mutated and {len(rows) - positives} wild type of {len(rows)} patients"
    few = min(positives, len(rows) - positives) < min_positives
    return f"too few patients: {counts}, at least {min_positives} of each are needed" if few else None


def _run(
    embedding: units.Rows,
    parts: dict[str, list[units.Part]],
    truth: pd.DataFrame,
    too_few: dict[str, str | None],
    settings: Settings,
    n_jobs: int,
) -> dict[tuple[str, int], _Scored]:
    """Score every label and split; labels of the same patients and parts are solved together, over several splits."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    content: dict[tuple[Any, ...], list[tuple[Ints, Bools, Ints]]] = {}
    for label, of_label in parts.items():
        if too_few[label] is not None:
            continue
        profiled = truth[label].notna().to_numpy()
        here = [profiled[part.rows] for part in of_label]
        chosen = [(p.rows[h], p.test[h], p.fold[h]) for p, h in zip(of_label, here, strict=True)]
        key = (label.rpartition("/")[0], *(array.tobytes() for triple in chosen for array in triple))
        groups.setdefault(key, []).append(label)
        content[key] = chosen
    work, names = [], []
    for key, labels in groups.items():
        splits = [part.split for part in parts[labels[0]]]
        columns = [truth[label].to_numpy(dtype=bool, na_value=False) for label in labels]
        for numbers in units.chunks(len(splits), len(content[key][0][0]), embedding.shape[1]):
            chosen = [content[key][number] for number in numbers]
            status = [np.stack([column[rows] for column in columns], axis=1) for rows, _, _ in chosen]
            work.append((chosen, status, settings))
            names.append([(labels, splits[number]) for number in numbers])
    # The longest units first, so that no process is left alone with one at the end.
    order = sorted(range(len(work)), key=lambda number: -sum(len(rows) for rows, _, _ in work[number][0]))
    results = units.run_units(_score_unit, [work[number] for number in order], embedding, n_jobs, "mutation probes")
    return {
        (label, split): scored
        for number, of_unit in zip(order, results, strict=True)
        for (labels, split), of_split in zip(names[number], of_unit, strict=True)
        for label, scored in zip(labels, of_split, strict=True)
    }


def _score_unit(
    embedding: units.Rows,
    splits: Sequence[tuple[Ints, Bools, Ints]],
    status: Sequence[Bools],
    settings: Settings,
) -> list[list[_Scored]]:
    """Tune and fit all labels of a unit on the training patients of its splits and score their test patients."""
    scored: list[list[_Scored]] = []
    able = np.stack(
        [has_both_classes(s[~test], fold[~test]) for (_, test, fold), s in zip(splits, status, strict=True)]
    )
    for (rows, test, _), truth, usable in zip(splits, status, able, strict=True):
        of_split = []
        for label in range(truth.shape[1]):
            positives, n = int(truth[~test, label].sum()), int((~test).sum())
            reason = (
                None
                if usable[label]
                else f"one class only in training (positives {positives}, negatives {n - positives})"
            )
            of_split.append(_Scored(rows[test], {}, {}, reason))
        scored.append(of_split)
    # Nearly always every split can be tuned on every label; those that cannot are solved apart.
    for pattern in np.unique(able, axis=0):
        chosen = np.flatnonzero((able == pattern).all(axis=1)).tolist()
        labels = np.flatnonzero(pattern)
        if len(labels) == 0:
            continue
        parts = []
        for number in chosen:
            rows, test, fold = splits[number]
            train = np.asarray(embedding[rows[~test]])
            parts.append(LabelledPart(train, status[number][~test][:, labels], fold[~test]))
        for number, tuned in zip(chosen, tune_logistic_parts(parts, settings), strict=True):
            rows, test, _ = splits[number]
            tested = np.asarray(embedding[rows[test]])
            scores = {variant: model.score(tested) for variant, model in tuned.items()}
            for place, label in enumerate(labels.tolist()):
                scored[number][label] = _Scored(
                    rows[test],
                    {variant: np.ascontiguousarray(score[:, place]) for variant, score in scores.items()},
                    {variant: model.choices[place] for variant, model in tuned.items()},
                    None,
                )
    return scored


def _label_metrics(
    parts: Sequence[units.Part],
    scored: dict[tuple[str, int], _Scored],
    known: Ints,
    truth: Bools,
    types: npt.NDArray[np.object_],
    flagged: Bools | None,
    too_few: str | None,
    settings: Settings,
) -> dict[str, Any]:
    label = parts[0].label
    cohort, _, gene = label.rpartition("/")
    splits = [part.split for part in parts]
    results = [scored.get((label, split)) for split in splits]
    everyone = np.ones(len(truth), dtype=bool)

    def over(metric: Any, included: Bools, variant: Variant = "own") -> list[tuple[Any, str | None]]:
        values: list[tuple[Any, str | None]] = []
        for result in results:
            if result is None or result.reason is not None:
                values.append((None, too_few if result is None else result.reason))
                continue
            here = included[result.rows]
            rows, score = result.rows[here], result.scores[variant][here]
            values.append(units.attempt(lambda rows=rows, score=score: metric(truth[rows], score, types[rows])))  # type: ignore[misc]
        return values

    def summary(values: list[tuple[Any, str | None]]) -> dict[str, Any]:
        return units.refused(too_few, splits) if too_few is not None else units.summarise(values, splits)

    several = len(set(types[known].tolist())) > 1
    metrics: dict[str, Any] = {
        "cohort": cohort,
        "gene": gene.removesuffix(HOTSPOT),
        "kind": "hotspot" if gene.endswith(HOTSPOT) else "nonsilent",
        "n": len(known),
        "positives": int(truth[known].sum()),
        **summary(over(_auroc, everyone)),
        **units.choice_columns([None if result is None else result.choices.get("own") for result in results]),
        "average_precision": summary(over(_average_precision, everyone)),
        "without_hypermutated": _without(flagged, known, truth, over, summary, splits),
    }
    if several:
        metrics["within_type"] = _within(over(within_type_auroc, everyone), summary)
    if settings.common_width is not None:
        common: dict[str, Any] = {
            "width": settings.common_width,
            **summary(over(_auroc, everyone, "common")),
            **units.choice_columns([None if result is None else result.choices.get("common") for result in results]),
        }
        if several:
            common["within_type"] = _within(over(within_type_auroc, everyone, "common"), summary)
        metrics["common_width"] = common
    if cohort == PAN_CANCER:
        chosen = informative_types(truth[known], types[known])
        included = np.isin(types.astype(str), chosen)
        # Without an informative type the label is refused for that, not for one class in an empty test part.
        nothing = "no cancer type has more than 15 patients and 5 % of either status"
        informative = summary(over(_auroc, included)) if chosen or too_few else units.refused(nothing, splits)
        metrics["informative_types"] = {**informative, "types": chosen}
    return metrics


def informative_types(truth: Bools, types: npt.NDArray[np.object_]) -> list[str]:
    """Types with more than 15 patients and more than 5 % of either status, sorted (Way 2018)."""
    chosen = []
    for name in sorted(set(types.tolist())):
        here = truth[types == name]
        fewer = min(int(here.sum()), int((~here).sum()))
        if fewer > INFORMATIVE_PATIENTS and fewer > INFORMATIVE_SHARE * len(here):
            chosen.append(str(name))
    return chosen


def _within(values: list[tuple[WithinType | None, str | None]], summary: Any) -> dict[str, Any]:
    """Within-type AUROC; pairs, n and macro_mean are means over the splits that have a value."""
    found = [value for value, _ in values if value is not None]
    result: dict[str, Any] = summary([(None if value is None else value.value, why) for value, why in values])
    for key in ("pairs", "n", "macro_mean"):
        result[key] = units.rounded(np.mean([getattr(value, key) for value in found])) if found else None
    return result


def _without(
    flagged: Bools | None, known: Ints, truth: Bools, over: Any, summary: Any, splits: Sequence[int]
) -> dict[str, Any]:
    if flagged is None:
        result: dict[str, Any] = units.refused("hypermutation is not known in this cohort", splits)
        return {**result, "n": None, "positives": None}
    result = summary(over(_auroc, ~flagged))
    left = known[~flagged[known]]
    return {**result, "n": len(left), "positives": int(truth[left].sum())}


def _auroc(truth: Bools, score: Floats, types: npt.NDArray[np.object_]) -> float:
    if len(truth) == 0:
        raise Undefined("no patients", {"n": 0})
    return auroc(truth, score)


def _average_precision(truth: Bools, score: Floats, types: npt.NDArray[np.object_]) -> float:
    return average_precision(truth, score)
