"""The tables of the page, cell by cell: what is shown, what it sorts by, and why a value is missing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import pandas as pd

from bulkprobe.report import tables
from bulkprobe.report.background import encoder_tags
from bulkprobe.report.tables import PAN_CANCER, TASKS

MISSING = "–"
LONG = 20  # rows
Cards = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Cell:
    """One cell: its text, the spread beside it, the key it sorts by, a tooltip and a footnote number."""

    text: str
    sort: str = ""
    spread: str = ""
    tip: str = ""
    note: int | None = None
    number: bool = False
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A sortable table: `groups` are headings over several columns as (text, columns under it).

    `frame`: the numbers behind it, written to a file as they are; without it, the file holds the cells.
    """

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    groups: Sequence[tuple[str, int]] = ()
    notes: Sequence[str] = ()
    wide: bool = False
    frame: pd.DataFrame | None = None

    @property
    def file(self) -> str:
        """The name of its file, without an ending: a table's name may come from data."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.name)

    @property
    def long(self) -> bool:
        """Whether a reader will look for a row rather than read all."""
        return len(self.rows) > LONG

    @property
    def encoder_column(self) -> int | None:
        """Where the encoder of a row stands; the page filters by it."""
        return list(self.columns).index("Encoder") if "Encoder" in self.columns else None

    @property
    def edges(self) -> set[int]:
        """The columns at which a group of several begins: a thin line keeps groups apart."""
        starts = list(accumulate(span for _, span in self.groups))[:-1]
        return set(starts) if any(span > 1 for _, span in self.groups[1:]) else set()


@dataclass
class Notes:
    """Collects the reasons behind missing values, each once, numbered in the order met."""

    texts: list[str] = field(default_factory=list)

    def number(self, text: str) -> int:
        """Return the footnote number of a reason."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def words(value: Any, tip: str = "", tags: tuple[str, ...] = ()) -> Cell:
    """Show text; an empty value is a dash."""
    text = MISSING if value is None or value == "" else str(value)
    return Cell(text, sort=text.lower(), tip=tip, tags=tags)


def count(value: Any) -> Cell:
    """Show a whole number with thin groups of thousands."""
    if value is None or pd.isna(value):
        return Cell(MISSING, number=True)
    return Cell(f"{int(value):,}", sort=f"{int(value)}", number=True)


def score(mean: Any, sd: Any, reason: Any, notes: Notes, tip: str = "") -> Cell:
    """Show mean ± sd to three decimals; a missing value is a dash with its reason as tooltip and footnote."""
    if mean is None or pd.isna(mean):
        why = str(reason) if reason else "undefined, no reason was recorded"
        return Cell(MISSING, tip=why, note=notes.number(tables.without_counts(why)), number=True)
    spread = "" if sd is None or pd.isna(sd) else f"± {float(sd):.3f}"
    return Cell(f"{float(mean):.3f}", sort=f"{float(mean):.6f}", spread=spread, tip=tip, number=True)


def plus(value: float) -> str:
    """Write a difference with its sign, to three decimals."""
    return f"{value:+.3f}".replace("-", "−") if f"{abs(value):.3f}" != "0.000" else "0.000"


def signed(value: Any, reason: Any, notes: Notes, spread: str = "", tip: str = "") -> Cell:
    """Show a difference with its sign; a missing one is a dash with its reason."""
    cell = score(value, None, reason, notes, tip)
    return cell if cell.text == MISSING else replace(cell, text=plus(float(value)), spread=spread)


def interval(entry: Mapping[str, Any]) -> str:
    """Write the ends of an interval; empty without one."""
    low, high = entry.get("low"), entry.get("high")
    return f"{plus(low)} to {plus(high)}" if low is not None and high is not None else ""


def p_value(value: float | None) -> Cell:
    """Show a p-value to three decimals; smaller ones as such."""
    if value is None:
        return Cell(MISSING, number=True)
    return Cell("< 0.001" if value < 0.001 else f"{value:.3f}", sort=f"{value:.12g}", number=True)


def headline(tasks: pd.DataFrame, cards: Cards, splits: int, common: pd.DataFrame, width: int | None) -> Table:
    """Seven summary tasks per encoder, at its own width and, where anything was probed there, at the common one."""
    notes, rows = Notes(), []
    beside = width is not None and common["mean"].notna().any()
    at_common = dict(tuple(common.groupby("encoder", sort=False)))
    for encoder, group in tasks.groupby("encoder", sort=False):
        card = cards.get(str(encoder), {})
        tags = encoder_tags(card)
        row = [words(encoder, tip=str(card.get("title") or ""), tags=tags), count(card.get("width"))]
        row += _task_cells(group, splits, notes)
        if beside:
            row += _task_cells(at_common[encoder], splits, notes)
        rows.append(row)
    columns = ["Encoder", "Width", *TASKS.values()]
    groups = [("", 2), ("Mutation in all cancers: AUROC", 2), ("Mutation in one cancer: AUROC", 4), ("C-index", 1)]
    if beside:
        columns += TASKS.values()
        groups.append((f"The same at the common width of {width}", len(TASKS)))
    own_and_common = {"own": tasks, str(width): common} if beside else {"own": tasks}
    frame = pd.concat([part.assign(width=name) for name, part in own_and_common.items()])
    caption = f"Mean ± sd over {splits} splits"
    return Table("headline", caption, columns, rows, groups, notes.texts, wide=bool(beside), frame=frame)


def _task_cells(group: pd.DataFrame, splits: int, notes: Notes) -> list[Cell]:
    row = []
    for task in tables.records(group):
        tip = f"sd over {task['splits']} of {splits} splits" if task["splits"] < splits else ""
        cell = score(task["mean"], task["sd"], task["reason"], notes, tip)
        if task["undefined"] and cell.text != MISSING:
            labels = task["labels"] + len(task["undefined"].split(", "))
            left_out = f"mean over {task['labels']} of {labels} labels; left out as undefined: {task['undefined']}"
            cell = replace(cell, tip=left_out, note=notes.number(left_out))
        row.append(cell)
    return row


def genes(table: pd.DataFrame) -> Table:
    """Pan-cancer genes: AUROC over all types, over informative types, and between patients of one type."""
    chosen = table[table["cohort"] == PAN_CANCER]
    labels = list(dict.fromkeys(chosen["label"]))
    notes, by_cell, rows = Notes(), chosen.set_index(["encoder", "label"]), []
    for encoder in dict.fromkeys(chosen["encoder"]):
        row = [words(encoder)]
        for label in labels:
            row += cells_of(by_cell, (encoder, label), ("", "informative_", "within_"), notes)
        rows.append(row)
    types = chosen.drop_duplicates("label").set_index("label")["informative_types"]
    groups = [("", 1), *((_title(chosen, label), 3) for label in labels)]
    for listed in dict.fromkeys(types):
        named = ", ".join(_title(chosen, label) for label in labels if types[label] == listed)
        notes.texts.append(f"{named}: informative types {listed or 'none'}")
    columns = ["Encoder", *(["all types", "informative", "within type"] * len(labels))]
    caption = "Pan-cancer AUROC, mean ± sd"
    return Table("genes", caption, columns, rows, groups, notes.texts, wide=True, frame=chosen)


def cohorts(table: pd.DataFrame) -> Table:
    """Labels of one cancer (or one organ): AUROC, with the within-type value where several types are merged."""
    chosen = table[table["cohort"] != PAN_CANCER]
    merged = set(chosen.loc[chosen["within_mean"].notna(), "label"])
    notes, by_cell, rows = Notes(), chosen.set_index(["encoder", "label"]), []
    labels = list(dict.fromkeys(chosen["label"]))
    for encoder in dict.fromkeys(chosen["encoder"]):
        row = [words(encoder)]
        for label in labels:
            row += cells_of(by_cell, (encoder, label), ("", "within_") if label in merged else ("",), notes)
        rows.append(row)
    groups, columns = [("", 1)], ["Encoder"]
    for label in labels:
        parts = ["all pairs", "within type"] if label in merged else ["AUROC"]
        groups.append((_title(chosen, label, with_cohort=True), len(parts)))
        columns += parts
    caption = "AUROC inside one cancer, mean ± sd"
    return Table("cohorts", caption, columns, rows, groups, notes.texts, wide=True, frame=chosen)


def every_label(table: pd.DataFrame) -> Table:
    """All mutation labels with every variant of the score, one row a label and encoder."""
    notes, rows = Notes(), []
    for row in tables.records(table):
        cells = [words(row["label"]), words(row["kind"]), words(row["encoder"])]
        cells += [count(row["n"]), count(row["positives"]), count(row["splits"])]
        for prefix in ("", *(f"{name}_" for name in tables.BLOCKS.values())):
            tip = f"types: {row['informative_types']}" if prefix == "informative_" else ""
            if prefix == "within_" and pd.notna(row["within_macro"]):
                tip = f"pairs {row['within_pairs']:,}; mean over types {row['within_macro']:.3f}"
            cells.append(score(row[f"{prefix}mean"], row[f"{prefix}sd"], row[f"{prefix}reason"], notes, tip))
        cells.append(count(row["grid_edge_hits"]))
        rows.append(cells)
    columns = ["Label", "Kind", "Encoder", "Patients", "Mutated", "Splits", "AUROC", "Within type"]
    columns += ["Without hypermutated", "Informative types", "Average precision", "Common width", "Grid edge"]
    caption = "Every mutation label, mean ± sd"
    return Table("every-label", caption, columns, rows, notes=notes.texts, wide=True, frame=table)


def planted(table: pd.DataFrame) -> Table:
    """Planted against recovered, one row a label and encoder, the true predictor beside each."""
    notes, rows = Notes(), []
    for row in tables.records(table):
        undefined = "undefined for this encoder, see the tables above"
        cells = [words(row["label"]), words(row["measure"]), words(row["strength"])]
        cells += [count(row["positives"]), score(row["true"], None, "no true predictor for this label", notes)]
        cells += [words(row["encoder"]), score(row["recovered"], None, undefined, notes)]
        rows.append([*cells, signed(row["difference"], undefined, notes)])
    columns = ["Label", "Measure", "Planted", "Positives or events", "True predictor", "Encoder", "Recovered"]
    caption = "Planted against recovered, on the same test patients"
    return Table("planted", caption, [*columns, "Difference"], rows, notes=notes.texts, wide=True, frame=table)


def planted_wide(table: pd.DataFrame, cards: Cards) -> Table:
    """Planted against recovered at a glance: the true predictor, every baseline, the range of the others."""
    notes, rows, numbers = Notes(), [], []
    baselines = [name for name in dict.fromkeys(table["encoder"]) if cards.get(name, {}).get("kind") == "baseline"]
    for (_, label, _), group in table.groupby(["task", "label", "measure"], sort=False):
        first, by_encoder = group.iloc[0], group.set_index("encoder")
        numbers.append({**first[["label", "measure", "strength", "positives", "true"]], **by_encoder["recovered"]})
        row = [words(label), words(first["measure"]), words(first["strength"]), count(first["positives"])]
        row.append(score(first["true"], None, "no true predictor for this label", notes))
        for name in baselines:
            value, difference = by_encoder["recovered"].get(name), by_encoder["difference"].get(name)
            cell = score(value, None, f"undefined for {name}, see the tables above", notes)
            if difference is not None and pd.notna(difference):
                cell = replace(cell, spread=plus(difference))
            row.append(cell)
        others = by_encoder["recovered"].drop(baselines, errors="ignore").dropna()
        span = f"{others.min():.3f} to {others.max():.3f}" if len(others) else ""
        row.append(Cell(span or MISSING, sort=f"{others.max():.6f}" if len(others) else "", number=True))
        rows.append(row)
    columns = ["Label", "Measure", "Planted", "Positives or events", "True predictor", *baselines, "Foundation models"]
    caption, frame = "Planted against recovered", pd.DataFrame(numbers)
    return Table("planted-wide", caption, columns, rows, notes=notes.texts, wide=True, frame=frame)


def flow(steps: Sequence[Mapping[str, Any]]) -> Table:
    """How many are dropped at each rule, in the order of the rules."""
    rows = [
        [
            *(words(step["rule"]), count(step["before"]), count(step["dropped"]), count(step["after"])),
            words(step.get("note")),
        ]
        for step in steps
    ]
    frame = pd.DataFrame([dict(step) for step in steps], columns=["rule", "before", "dropped", "after", "note"])
    return Table("flow", "Cohort flow", ["Rule", "Before", "Dropped", "After", "Note"], rows, frame=frame)


def register(cards: Cards) -> Table:
    """What each encoder is, what it saw in pre-training, and whether its weights are here."""
    answers = {True: "yes", False: "no", None: "not stated"}
    rows = []
    for name, card in cards.items():
        saw = card.get("saw_tcga")
        coverage = card.get("coverage")
        state = weights_state(card)
        cells = [words(name), words(card.get("title")), words(card["kind"]), words(state)]
        cells += [words(card.get("pretraining"))]
        cells += [
            words(answers.get(saw, str(saw)) if card["kind"] == "foundation" else "no"),
            words(card.get("priors")),
        ]
        share = Cell(MISSING, number=True)
        if coverage is not None:
            share = Cell(f"{100 * coverage:.1f} %", sort=f"{coverage:.6f}", number=True)
        noise = card.get("draw_noise")
        drawn = Cell(
            MISSING if noise is None else f"{noise:.2f}", sort="" if noise is None else f"{noise}", number=True
        )
        rows.append([*cells, words(card.get("pooling")), count(card.get("width")), share, drawn])
        rows[-1].append(words(card.get("licence")))
    columns = ["Encoder", "Name", "Kind", "Weights", "Saw in pre-training", "Saw TCGA?", "Priors", "Pooling"]
    caption, frame = "Encoders: contamination, priors and terms", pd.DataFrame([*cards.values()])
    if len(frame):
        frame.insert(0, "encoder", list(cards))
    columns += ["Width", "Genes covered", "Draw noise", "Licence"]
    return Table("register", caption, columns, rows, wide=True, frame=frame)


def weights_state(card: Mapping[str, Any]) -> str:
    """Say which weights made an encoder's numbers."""
    if card.get("absent"):
        return "absent"
    if card["kind"] == "baseline":
        return "nothing to load"
    if card.get("twin"):
        return f"untrained twin ({card.get('release')})"
    if card.get("untrained"):
        return "untrained stand-in"
    checked = "checked by hash" if card.get("verified") else "unverified"
    return f"{card.get('release') or 'as given'}, {checked}"


def pairs(name: str, caption: str, content: Mapping[str, Any]) -> Table:
    """A nested mapping as rows of path and value."""
    rows = [[words(path), words(value)] for path, value in _flat(content)]
    return Table(name, caption, ["Item", "Value"], rows)


def _flat(content: Any, path: str = "") -> list[tuple[str, str]]:
    if isinstance(content, Mapping) and content:
        return [row for key, value in content.items() for row in _flat(value, f"{path} › {key}" if path else str(key))]
    if isinstance(content, list | tuple):
        return [(path, ", ".join(map(str, content)))]
    return [(path, "" if content is None else str(content))]


def cells_of(by_cell: pd.DataFrame, key: tuple[Any, Any], prefixes: Sequence[str], notes: Notes) -> list[Cell]:
    """Show the score of one encoder and label, one cell a prefix of its columns."""
    if key not in by_cell.index:
        return [score(None, None, "this encoder was not probed on this label", notes) for _ in prefixes]
    row = by_cell.loc[key]
    return [score(row[f"{p}mean"], row[f"{p}sd"], row[f"{p}reason"], notes) for p in prefixes]


def _title(table: pd.DataFrame, label: str, with_cohort: bool = False) -> str:
    row = table[table["label"] == label].iloc[0]
    gene = f"{row['gene']} hotspot" if row["kind"] == "hotspot" else str(row["gene"])
    return f"{row['cohort']} {gene}\n{row['positives']} / {row['n']}" if with_cohort else gene
