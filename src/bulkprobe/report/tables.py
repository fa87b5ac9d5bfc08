"""What the metrics say, as plain tables: the summary, the headline, one row a label and encoder.

Every mean is over splits first and over labels second. `sd` is the standard deviation over splits: the test
parts of random splits share patients, so it is no standard error and serves no test.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

Metrics = Mapping[str, Any]
Summary = dict[str, dict[str, float | None]]

PAN_CANCER = "pan_cancer"
ENDPOINT = "OS"  # the endpoint of every headline number; others stand in the tables
REFERENCE = "pca"  # the baseline that stands beside the foundation models in the headline
DECIMALS = 6
SCORES = ("mean", "sd", "macro", "share", "true", "recovered", "difference")  # endings of numeric columns

# Summary key -> how a reader calls it.
TASKS: dict[str, str] = {
    "mutation_pan_cancer": "Pan-cancer",
    "mutation_within_type": "Within type",
    "mutation_BRCA": "BRCA",
    "mutation_COAD": "COAD",
    "mutation_LUAD": "LUAD",
    "mutation_RCC": "RCC",
    "survival": "Survival",
}
# The blocks of one mutation label beside its plain AUROC -> the columns they become.
BLOCKS = {
    "within_type": "within",
    "without_hypermutated": "no_hyper",
    "informative_types": "informative",
    "average_precision": "precision",
    "common_width": "common",
}

# The blocks of one survival label -> how a reader calls them; the first is the label's own score.
OWN, COMMON = "own", "common_width"
SURVIVAL_BLOCKS = {
    OWN: "Harrell's C",
    COMMON: "The score at the common width",
    "uno_c": "Uno's C",
    "integrated_brier": "Integrated Brier score",
    "clinical": "Clinical alone",
    "with_clinical": "Clinical + embedding",
    "added_value": "Added value",
}
# Types that stand beside their merger, where both are probed, and not in the mean.
MERGED = {"GBMLGG": ("GBM", "LGG"), "COADREAD": ("COAD", "READ"), "RCC": ("KIRC", "KIRP", "KICH")}


def summarise(mutation: Mapping[str, Metrics], survival: Mapping[str, Metrics]) -> Summary:
    """Reduce the metrics of every encoder to the seven numbers of `metrics/summary.json`.

    A mutation task is the mean over the non-silent labels of its cohort that are defined for any encoder; within
    type, over the pan-cancer genes' within-type AUROC; survival, the unweighted mean C-index over cancer types. `None`
    where a label that another encoder has is undefined: only means over the same labels compare. Numbers are rounded
    to six decimals.
    """
    frame = task_table(mutation, survival)
    return {
        str(encoder): {str(task): _optional(mean) for task, mean in zip(rows["task"], rows["mean"], strict=True)}
        for encoder, rows in frame.groupby("encoder", sort=False)
    }


def headline(
    summary: Mapping[str, Mapping[str, float | None]], cards: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, float]], list[dict[str, str]]]:
    """Choose the few numbers that DVC shows as metrics, and name every one that is missing.

    Returns `{"within_type_auroc": {encoder: x}, "c_index": {encoder: x}}` for the foundation models and the PCA
    baseline, and rows `{"encoder", "measure", "reason"}` for values that cannot be given: DVC drops a null
    without a word, so the report has to say it.
    """
    wanted = {
        "within_type_auroc": ("mutation_within_type", "no pan-cancer gene has a defined within-type AUROC"),
        "c_index": ("survival", "no cancer type has a defined C-index"),
    }
    chosen = [name for name, card in cards.items() if card["kind"] == "foundation" or name == REFERENCE]
    values: dict[str, dict[str, float]] = {measure: {} for measure in wanted}
    missing = []
    for encoder in chosen:
        for measure, (task, undefined) in wanted.items():
            value = summary.get(encoder, {}).get(task)
            if value is not None:
                values[measure][encoder] = value
                continue
            reason = cards[encoder].get("absent") or (undefined if encoder in summary else "no metrics were given")
            missing.append({"encoder": encoder, "measure": measure, "reason": str(reason)})
    return values, missing


def task_table(mutation: Mapping[str, Metrics], survival: Mapping[str, Metrics], common: bool = False) -> pd.DataFrame:
    """Give one row an encoder and summary task, at the encoders' own widths or at the common one.

    Columns: encoder, task, mean, sd (over the splits in which every defined label has a score), splits (how many
    those are), labels (how many went into the mean), undefined (labels left out, as text), reason (why the mean
    is missing, else None).
    """
    rows = []
    encoders = list(dict.fromkeys([*mutation, *survival]))
    for task in TASKS:
        source = survival if task == "survival" else mutation
        chosen = {encoder: labels_of(source.get(encoder, {}), task, common) for encoder in encoders}
        absences = {
            encoder: _absence(source.get(encoder, {}), f"no {task.split('_')[0]} metrics were given")
            for encoder in encoders
        }
        rows += [{"task": task, **row} for row in _mean_rows(chosen, absences)]
    rows.sort(key=lambda row: encoders.index(row["encoder"]))
    return _frame(rows, ["encoder", "task", "mean", "sd", "splits", "labels", "undefined", "reason"])


def labels_of(metrics: Metrics, task: str, common: bool = False) -> dict[str, Metrics]:
    """Return the labels that make the mean of a summary task, each with the block that holds its scores."""
    labels = _present(metrics, "labels")
    if task == "survival":
        return {name: _part(row, COMMON) if common else row for name, row in survival_labels(metrics, ENDPOINT).items()}
    cohort = PAN_CANCER if task in ("mutation_pan_cancer", "mutation_within_type") else task.removeprefix("mutation_")
    chosen = {n: label for n, label in labels.items() if label["cohort"] == cohort and label["kind"] == "nonsilent"}
    if common:
        chosen = {name: _part(label, COMMON) for name, label in chosen.items()}
    if task == "mutation_within_type":
        return {name: label.get("within_type") or {"reason": label.get("reason")} for name, label in chosen.items()}
    return chosen


def survival_labels(metrics: Metrics, endpoint: str) -> dict[str, Metrics]:
    """Return the labels that make the mean of an endpoint: merged types once, without their members beside."""
    labels = _present(metrics, "labels")
    present = {label["cohort"] for label in labels.values()}
    beside = {member for merged, members in MERGED.items() if merged in present for member in members}
    return {n: row for n, row in labels.items() if row["endpoint"] == endpoint and row["cohort"] not in beside}


def common_width(*metrics: Mapping[str, Metrics]) -> int | None:
    """Return the number of PCA axes at which wide encoders were probed beside their own width; None without any."""
    return next((int(one[COMMON]) for group in metrics for one in group.values() if one.get(COMMON)), None)


def survival_means(survival: Mapping[str, Metrics]) -> pd.DataFrame:
    """Give one row an encoder, endpoint and measure: the unweighted mean over cancer types.

    Measures: those of SURVIVAL_BLOCKS, the first being Harrell's C at the own width. Columns: encoder, endpoint,
    measure, mean, sd, splits, labels, undefined, reason (as in `task_table`).
    """
    labels = [row for metrics in survival.values() for row in _present(metrics, "labels").values()]
    rows = []
    for endpoint in dict.fromkeys(row["endpoint"] for row in labels):
        for block in SURVIVAL_BLOCKS:
            chosen = {
                encoder: {
                    name: _part(row, block) if block != OWN else row
                    for name, row in survival_labels(metrics, endpoint).items()
                }
                for encoder, metrics in survival.items()
            }
            absences = {
                encoder: _absence(metrics, "no survival metrics were given") for encoder, metrics in survival.items()
            }
            rows += [{"endpoint": endpoint, "measure": block, **row} for row in _mean_rows(chosen, absences)]
    columns = ["encoder", "endpoint", "measure", "mean", "sd", "splits", "labels", "undefined", "reason"]
    return _frame(rows, columns)


def _part(label: Metrics, block: str) -> Metrics:
    """A block beside the plain score of a label; files of older runs lack it."""
    found: Metrics | None = label.get(block)
    return found if found is not None else {"reason": f"{SURVIVAL_BLOCKS[block]} was not computed"}


def _mean_rows(chosen: Mapping[str, Mapping[str, Metrics]], absences: Mapping[str, str | None]) -> list[dict[str, Any]]:
    # Only means over the same labels can be compared, so a mean needs every label that any encoder has.
    wanted = {name for labels in chosen.values() for name, label in labels.items() if label.get("mean") is not None}
    return [{"encoder": encoder, **_mean_row(labels, wanted, absences[encoder])} for encoder, labels in chosen.items()]


def mutation_table(mutation: Mapping[str, Metrics]) -> pd.DataFrame:
    """Give one row an encoder and mutation label, with every variant of its AUROC.

    Columns: encoder, label, cohort, gene, kind, n, positives (patients), mean, sd, splits (defined), reason; then
    `<block>_mean`, `_sd`, `_reason` for within (type), no_hyper(mutated), informative (types),
    (average) precision and common (width); within_pairs, within_macro, informative_types; grid_edge_hits, fits.
    """
    rows = []
    for encoder, metrics in mutation.items():
        for name, label in _present(metrics, "labels").items():
            row: dict[str, Any] = {
                "encoder": encoder,
                "label": name,
                **{key: label.get(key) for key in ("cohort", "gene", "kind", "n", "positives")},
                **_score(label),
                "splits": _defined(label),
                **_grid(label),
            }
            for block, prefix in BLOCKS.items():
                part = label.get(block)
                given = part if part is not None else {"reason": "not computed for this cohort"}
                row.update({f"{prefix}_{key}": value for key, value in _score(given).items()})
            within, informative = label.get("within_type") or {}, label.get("informative_types") or {}
            row["within_pairs"], row["within_macro"] = within.get("pairs"), within.get("macro_mean")
            row["informative_types"] = ", ".join(informative.get("types") or [])
            rows.append(row)
    columns = ["encoder", "label", "cohort", "gene", "kind", "n", "positives", "mean", "sd", "splits", "reason"]
    columns += [f"{prefix}_{key}" for prefix in BLOCKS.values() for key in ("mean", "sd", "reason")]
    columns += ["within_pairs", "within_macro", "informative_types", "grid_edge_hits", "fits"]
    return _frame(rows, columns)


def survival_table(survival: Mapping[str, Metrics]) -> pd.DataFrame:
    """Give one row an encoder, cancer type and endpoint.

    Columns: encoder, label, cohort, endpoint, n (patients), events, mean, sd (Harrell's C over splits), splits
    (defined), reason, advice (Liu 2018 10.1016/j.cell.2018.02.052 on the endpoint, or None), grid_edge_hits, fits;
    `<block>_mean`, `_sd`, `_reason` for the other SURVIVAL_BLOCKS.
    """
    rows, others = [], [block for block in SURVIVAL_BLOCKS if block != OWN]
    for encoder, metrics in survival.items():
        for name, label in _present(metrics, "labels").items():
            row = {key: label.get(key) for key in ("cohort", "endpoint", "n", "events", "advice")}
            row.update(_score(label), splits=_defined(label), **_grid(label))
            for block in others:
                row.update({f"{block}_{key}": value for key, value in _score(_part(label, block)).items()})
            rows.append({"encoder": encoder, "label": name, **row})
    columns = ["encoder", "label", "cohort", "endpoint", "n", "events", "mean", "sd", "splits", "reason"]
    columns += ["advice", "grid_edge_hits", "fits"]
    return _frame(rows, [*columns, *(f"{block}_{key}" for block in others for key in ("mean", "sd", "reason"))])


def planted_table(planted: Sequence[Mapping[str, Any]] | None) -> pd.DataFrame:
    """Give one row an encoder and planted label: the encoder's score beside the true predictor's.

    `planted` holds rows `{"task", "label", "measure", "strength", "true", "positives", "scores": {encoder: x}}`.
    Columns: task, label, measure, strength, positives (or events), encoder, true, recovered,
    difference (recovered - true; negative = less than the truth allows).
    """
    rows = []
    for row in planted or []:
        for encoder, score in row["scores"].items():
            both = row["true"] is not None and score is not None
            rows.append(
                {
                    **{key: row.get(key) for key in ("task", "label", "measure", "strength", "positives", "true")},
                    "encoder": encoder,
                    "recovered": score,
                    "difference": score - row["true"] if both else None,
                }
            )
    columns = ["task", "label", "measure", "strength", "positives", "encoder", "true", "recovered", "difference"]
    return _frame(rows, columns)


def grid_edges(mutation: Mapping[str, Metrics], survival: Mapping[str, Metrics]) -> pd.DataFrame:
    """Count how often the chosen penalty lay at an end of the grid, where a better one may lie beyond it.

    Columns: encoder, task, hits, fits, share (hits / fits), worst (label with most hits); encoders without any hit
    are left out.
    """
    rows = []
    for task, table in (("mutation", mutation_table(mutation)), ("survival", survival_table(survival))):
        for encoder, group in table.groupby("encoder", sort=False):
            hits, fits = int(group["grid_edge_hits"].sum()), int(group["fits"].sum())
            if hits == 0:
                continue
            worst = group["label"].iloc[int(group["grid_edge_hits"].astype(int).argmax())]
            row = {"encoder": encoder, "task": task, "hits": hits, "fits": fits, "worst": worst}
            rows.append({**row, "share": hits / fits if fits else None})
    return _frame(rows, ["encoder", "task", "hits", "fits", "share", "worst"])


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dictionaries."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def without_counts(reason: str) -> str:
    """Drop the counts at the end of a reason, so that equal reasons of several labels are told once."""
    return re.sub(r" \([a-z]+ \d+(, [a-z]+ \d+)*\)$", "", reason)


def _mean_row(labels: Mapping[str, Metrics], wanted: set[str], absence: str | None) -> dict[str, Any]:
    defined = {name: label for name, label in labels.items() if label.get("mean") is not None}
    undefined = {name: label for name, label in labels.items() if name not in defined}
    reason = None
    if not defined:
        reasons = list(
            dict.fromkeys(without_counts(label.get("reason") or "undefined") for label in undefined.values())
        )
        reason = absence or ("; ".join(reasons) if reasons else "no label of this task was probed")
    elif wanted - set(defined):
        reason = f"defined for {len(defined)} of {len(wanted)} labels, so its mean would not compare with the others'"
    # A split counts only where every label has a score: otherwise the labels' own levels would pass for spread.
    scores = [label.get("per_split") or [] for label in defined.values()]
    complete = [float(np.mean(one)) for one in zip(*scores, strict=True) if all(score is not None for score in one)]
    return {
        "mean": float(np.mean([label["mean"] for label in defined.values()])) if reason is None else None,
        "sd": float(np.std(complete, ddof=1)) if len(complete) > 1 and reason is None else None,
        "splits": len(complete),
        "labels": len(defined),
        "undefined": ", ".join(undefined),
        "reason": reason,
    }


def _score(block: Metrics) -> dict[str, Any]:
    mean = block.get("mean")
    reason = None if mean is not None else str(block.get("reason") or "undefined, no reason was recorded")
    return {"mean": mean, "sd": block.get("sd"), "reason": reason}


def _defined(label: Metrics) -> int:
    return sum(score is not None for score in label.get("per_split") or [])


def _grid(label: Metrics) -> dict[str, int]:
    fits = sum(penalty is not None for penalty in label.get("penalty") or [])
    return {"grid_edge_hits": int(label.get("grid_edge_hits") or 0), "fits": fits}


def _present(metrics: Metrics, key: str) -> Mapping[str, Any]:
    return metrics.get(key) or {}


def _absence(metrics: Metrics, otherwise: str) -> str | None:
    if metrics.get("absent"):
        return str(metrics["absent"])
    return None if metrics else otherwise


def _optional(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else round(float(value), DECIMALS)


def _frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Build a frame whose scores are floats (missing = NaN) and whose other columns keep their Python values."""
    frame = pd.DataFrame([dict(row) for row in rows], columns=list(columns), dtype=object)
    for column in columns:
        if column.endswith(SCORES):
            frame[column] = pd.to_numeric(frame[column]).astype("float64").round(DECIMALS)
    return frame
