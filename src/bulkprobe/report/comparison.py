"""Differences between encoders as the page shows them: sentences and tables made from `metrics/compare.json`.

Nothing is tested here: every interval and p-value was made by the stage `compare`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from bulkprobe.report.cells import MISSING, Cell, Notes, Table, count, interval, p_value, plus, score, signed, words
from bulkprobe.report.tables import TASKS

Compare = Mapping[str, Any]
Entries = Mapping[str, Mapping[str, Any]]
MEASURES = {"auroc": "AUROC", "within_type_auroc": "within-type AUROC", "c_index": "C-index"}
PLOT_COLUMNS = [
    *["encoder", "panel", "measure", "mean", "low", "high", "p_nadeau_bengio", "p_calibrated", "p_holm"],
    *["bootstrap_low", "bootstrap_high", "splits", "labels", "reason"],
]
RANK_COLUMNS = ["measure", "encoder", "average_rank", "critical_difference", "friedman_p", "labels", "reason"]


def tasks_of(compare: Compare) -> dict[str, Mapping[str, Any]]:
    """Return the summary tasks in the order of the page: JSON files are sorted by name."""
    return {task: compare["tasks"][task] for task in TASKS if task in compare["tasks"]}


def significance(compare: Compare) -> float:
    """Return the largest adjusted p-value that counts as a difference."""
    return 1.0 - float(compare["level"])


def differs(compare: Compare, entry: Mapping[str, Any]) -> bool:
    """Whether a difference is larger than chance after the correction for several encoders."""
    p = entry["p_holm"]
    return p is not None and p <= significance(compare)


def in_order(entries: Entries, order: Sequence[str]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the entries in the order of params.yaml."""
    return [(name, entries[name]) for name in order if name in entries]


def sentences(compare: Compare, order: Sequence[str]) -> list[tuple[str, str]]:
    """Say for every summary task who differs from the reference and who shares the top, from the numbers alone.

    Returns pairs of a title and its sentences; then the untrained twins, and who has learned nothing at all.
    """
    said = []
    for task in tasks_of(compare).values():
        entries = in_order(task["against_reference"], order)
        if any(entry["p_holm"] is not None for _, entry in entries):
            said.append((_title(task), f"{_against(compare, entries)} {_top(task, order)}".strip()))
        elif entries:
            said.append((_title(task), f"nothing can be compared with {compare['reference']} ({_why(entries)})."))
    twins = [name for name in order if compare["encoders"].get(name, {}).get("twin")]
    said += [("Trained against untrained", _twin(compare, name)) for name in twins]
    if not twins:
        nothing = "no encoder has an untrained twin in this study, so nothing says what training itself gave."
        said.append(("Trained against untrained", nothing))
    untrained = [name for name in order if compare["encoders"].get(name, {}).get("untrained")]
    if untrained:
        said.append(
            ("Random stand-ins", f"{listed(untrained)} learned nothing; what is said of them holds for no model.")
        )
    return said


def _against(compare: Compare, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    reference = compare["reference"]
    found = [(name, entry) for name, entry in entries if differs(compare, entry)]
    alike = [name for name, entry in entries if entry["p_holm"] is not None and not differs(compare, entry)]
    unknown = [name for name, entry in entries if entry["p_holm"] is None]
    parts = []
    for word, sign in (("better", 1), ("worse", -1)):
        chosen = [f"{name} ({_estimate(entry)})" for name, entry in found if entry["mean"] * sign > 0]
        if chosen:
            parts.append(f"{word} than {reference} after correction: {', '.join(chosen)}")
    if not found:
        parts.append(f"no encoder is distinguishable from {reference} after correction")
    elif alike:
        whom = listed(alike) if len(alike) < 3 else "the other compared encoders"
        parts.append(f"{whom} {'is' if len(alike) == 1 else 'are'} not distinguishable from it")
    if unknown:
        parts.append(f"not compared, for undefined scores: {listed(unknown)}")
    return f"{'; '.join(parts)}."


def _top(task: Mapping[str, Any], order: Sequence[str]) -> str:
    """Name the highest mean, never without the interval of its lead and who may share it."""
    entries = [(n, e) for n, e in in_order(task["against_best"], order) if e["mean"] is not None and not e["left_out"]]
    if task["best"] is None or not entries:
        return ""
    name, entry = max(entries, key=lambda item: item[1]["mean"])
    lead = _estimate({"mean": -entry["mean"], "low": _minus(entry["high"]), "high": _minus(entry["low"])})
    alike = [other for other in order if other in task["not_distinguishable"]]
    shared = f"not told apart from it: {listed(alike)}" if alike else "all compared encoders are told apart from it"
    if len(alike) > 1 and len(alike) == sum(entry["p_holm"] is not None for entry in task["against_best"].values()):
        shared = "no other encoder is told apart from it"
    return f"Highest mean: {task['best']} ({task['mean']:.3f}; lead over {name} {lead}); {shared}."


def _twin(compare: Compare, name: str) -> str:
    parts = []
    for task in tasks_of(compare).values():
        entry = task["against_twin"].get(name)
        if entry is not None and entry["mean"] is not None:
            verdict = "differs" if differs(compare, entry) else "not distinguishable"
            parts.append(f"{_title(task)} {_estimate(entry)}, {verdict}")
    twin = compare["encoders"][name]["twin"]
    return f"{name} against {twin}: {'; '.join(parts) if parts else 'nothing is defined for both'}."


def overview(compare: Compare, order: Sequence[str]) -> Table:
    """Differences to the reference, one row an encoder and one column a summary task."""
    notes, rows, tasks = Notes(), [], list(tasks_of(compare).values())
    for name in order:
        if name == compare["reference"] or not any(name in task["against_reference"] for task in tasks):
            continue
        row = [_encoder(compare, name)]
        for task in tasks:
            entry = task["against_reference"][name]
            cell = signed(entry["mean"], entry["reason"], notes, interval(entry), _labels(entry))
            row.append(replace(cell, text=f"{cell.text} *") if differs(compare, entry) else cell)
        rows.append(row)
    caption = f"Difference to {compare['reference']} with its interval at {compare['level']:.0%}; * differs after Holm"
    columns = ["Encoder", *(task["title"] for task in tasks)]
    return Table("differences", caption, columns, rows, notes=notes.texts, frame=difference_plot(compare, order))


def details(name: str, caption: str, compare: Compare, parts: Mapping[str, Entries], order: Sequence[str]) -> Table:
    """Every number of a comparison, one row a title of `parts` and encoder; wide."""
    notes, rows = Notes(), []
    for title, entries in parts.items():
        for encoder, entry in in_order(entries, order):
            boot = entry["bootstrap"]
            row = [words(title), _encoder(compare, encoder)]
            row.append(signed(entry["mean"], entry["reason"], notes, _spread(entry["sd"]), _labels(entry)))
            row.append(_ends(entry, entry["reason"], notes))
            row += [p_value(entry[key]) for key in ("p_nadeau_bengio", "p_calibrated", "p_holm")]
            row += [_ends(boot, boot["reason"], notes), _number(entry["effect"])]
            row += [count(entry["n_splits"]), count(len(entry["labels"])), count(boot["n_patients"])]
            rows.append(row)
    columns = ["Compared on", "Encoder", "Difference ± sd", "Interval", "p (Nadeau-Bengio)", "p (calibrated)"]
    columns += ["p (Holm)", "Bootstrap interval", "d_z", "Splits", "Labels", "Patients"]
    return Table(name, caption, columns, rows, notes=notes.texts, wide=True, frame=_details_frame(parts, order))


def _details_frame(parts: Mapping[str, Entries], order: Sequence[str]) -> pd.DataFrame:
    kept = ["mean", "sd", "low", "high", "p_nadeau_bengio", "p_calibrated", "p_holm", "effect", "n_splits", "reason"]
    rows = [
        {
            "compared_on": title,
            "encoder": encoder,
            **{key: entry[key] for key in kept},
            "n_labels": len(entry["labels"]),
        }
        | {f"bootstrap_{key}": entry["bootstrap"][key] for key in ("low", "high", "n_patients")}
        for title, entries in parts.items()
        for encoder, entry in in_order(entries, order)
    ]
    return pd.DataFrame(rows)


def tables_of(compare: Compare, order: Sequence[str]) -> list[Table]:
    """Make the long tables behind the section; those without a row are left out."""
    tasks, reference, width = tasks_of(compare), compare["reference"], compare["common_width"]
    best = {f"{_title(t)}: {t['best']}": t["against_best"] for t in tasks.values() if t["best"] is not None}
    by_label = {
        f"{label}, {MEASURES[measure]}": found["against_reference"]
        for label, measures in compare["labels"].items()
        for measure, found in measures.items()
    }
    twins = {_title(task): task["against_twin"] for task in tasks.values()}
    at_common = {_title(task): task["against_reference_common_width"] for task in tasks.values()}
    own = {_title(task): task["own_width_minus_common_width"] for task in tasks.values()}
    made = [
        details("to-reference", f"Against {reference}, by task", compare, _by(tasks, "against_reference"), order),
        details("to-twin", "Against the untrained twin, by task", compare, twins, order),
        details("to-best", "Against the highest mean of each task (chosen on these data)", compare, best, order),
        details("at-common", f"Against {reference}, both at the common width of {width}", compare, at_common, order),
        details("widths", f"Own width against the common width of {width}", compare, own, order),
        details("to-reference-labels", f"Against {reference}, by label", compare, by_label, order),
    ]
    return [table for table in made if any(row[2].text != MISSING for row in table.rows)]


def difference_plot(compare: Compare | None, order: Sequence[str]) -> pd.DataFrame:
    """Give the differences to the reference behind `metrics/plots/compare.csv`, one row a task and encoder.

    low, high: the calibrated interval. Columns: PLOT_COLUMNS.
    """
    rows = []
    for task in tasks_of(compare).values() if compare else ():
        for name, entry in in_order(task["against_reference"], order):
            kept = {key: entry[key] for key in ("mean", "low", "high", "p_nadeau_bengio", "p_calibrated", "p_holm")}
            boot = {f"bootstrap_{key}": entry["bootstrap"][key] for key in ("low", "high")}
            size = {"splits": entry["n_splits"], "labels": len(entry["labels"]), "reason": entry["reason"]}
            place = {"encoder": name, "panel": task["title"], "measure": MEASURES[task["measure"]]}
            rows.append({**place, **kept, **boot, **size})
    return pd.DataFrame(rows, columns=PLOT_COLUMNS)


def rank_plot(compare: Compare | None, order: Sequence[str]) -> pd.DataFrame:
    """Give the average ranks behind `metrics/plots/ranks.csv`, for mutation and survival. Columns: RANK_COLUMNS."""
    rows = []
    for measure, found in (compare or {}).get("ranks", {}).items():
        shared = {key: found[key] for key in ("critical_difference", "friedman_p")}
        for name in order:
            if name in found["average_ranks"] or name in found["left_out"]:
                rank = found["average_ranks"].get(name)
                reason = found["left_out"].get(name) or found["reason"]
                row = {"measure": measure, "encoder": name, "average_rank": rank, **shared}
                rows.append({**row, "labels": found["n_blocks"], "reason": reason})
    return pd.DataFrame(rows, columns=RANK_COLUMNS)


def _by(tasks: Mapping[str, Any], key: str) -> dict[str, Entries]:
    return {_title(task): task[key] for task in tasks.values()}


def _title(task: Mapping[str, Any]) -> str:
    return f"{task['title']} ({MEASURES[task['measure']].removeprefix('within-type ')})"


def _encoder(compare: Compare, name: str) -> Cell:
    tags = ("untrained",) if compare["encoders"].get(name, {}).get("untrained") else ()
    return words(name, tags=tags)


def _estimate(entry: Mapping[str, Any]) -> str:
    ends = interval(entry)
    return f"{plus(entry['mean'])}, {ends}" if ends else f"{plus(entry['mean'])}, no interval"


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def _why(entries: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    return "; ".join(dict.fromkeys(str(entry["reason"]) for _, entry in entries))


def listed(names: Sequence[str]) -> str:
    """Join names with commas and a last "and"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _labels(entry: Mapping[str, Any]) -> str:
    text = f"labels: {', '.join(entry['labels'])}" if entry["labels"] else ""
    return f"{text}; left out: {', '.join(entry['left_out'])}" if text and entry["left_out"] else text


def _spread(sd: float | None) -> str:
    return "" if sd is None else f"± {sd:.3f}"


def _ends(entry: Mapping[str, Any], reason: Any, notes: Notes) -> Cell:
    text = interval(entry)
    if not text:
        return score(None, None, reason, notes)
    return Cell(text, sort=f"{entry['low']:.6f}", number=True)


def _number(value: float | None) -> Cell:
    if value is None:
        return Cell(MISSING, number=True)
    return Cell(f"{value:.2f}".replace("-", "−"), sort=f"{value:.6f}", number=True)
