"""Do a model's gene vectors know which genes belong together? Sentences and tables made from `metrics/biology`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from bulkprobe.report.cells import MISSING, Cards, Cell, Notes, Table, count, words
from bulkprobe.report.measured import (
    BACKGROUND,
    Blocks,
    background,
    decimals,
    encoder,
    one_or_range,
    p_text,
    part,
    value,
)

SIDES = {"input": "Input gene vectors", "contextual": "Gene states inside the model"}
SCORES = {
    "recovery": ("mean", "set recovery"),
    "without_paralogs": ("mean", "without paralogs"),
    "coexpression": ("r2", "co-expression R²"),
}
DAGGER = "†"
SIGNIFICANCE = 0.05
MOST_SETS = 100  # rows of the table of sets: a page must stay readable
PLOT_COLUMNS = ["encoder", "vectors", "measure", "mean", "low", "high", "null", "n", "circular", "reason"]


def section(biology: Blocks, cards: Cards) -> dict[str, Any]:
    """Make what the template says and shows; empty without any file."""
    if not biology:
        return {}
    return {"said": recovered_said(biology), "overview": overview(biology, cards), "sets": sets(biology)}


def n_sets(biology: Blocks) -> str:
    """How many sets were used, over the encoders."""
    found = [part(c, "gene_sets").get("n_sets_used") for c in biology.values()]
    return one_or_range([int(number) for number in found if number is not None])


def recovered_said(biology: Blocks) -> list[str]:
    """Say on which sets, and for whom genes of one set lie closer together than genes of random sets."""
    first = part(next(iter(biology.values())), "gene_sets")
    known, above = [], []
    for name, content in biology.items():
        p = part(content, "vectors", "input", "recovery").get("p")
        if p is not None:
            known.append(name)
            above += [name] if p <= SIGNIFICANCE else []
    said = [f"{n_sets(biology)} gene sets of “{first.get('collection')}” ({first.get('source')})."]
    if known:
        who = f" ({', '.join(above)})" if above else ""
        said.append(
            f"{len(above)} of {len(known)} encoders place the genes of a set closer together than those of random sets "
            f"of the same size{who}; p ≤ {SIGNIFICANCE:g}, not corrected for the number of encoders."
        )
    return said


def overview(biology: Blocks, cards: Cards) -> Table:
    """One row an encoder: what its gene vectors recover, at the input and, where computed, inside the model."""
    notes, rows = Notes(), []
    shown = [side for side in SIDES if any(not part(c, "vectors", side).get("reason") for c in biology.values())]
    for name, content in biology.items():
        card = cards.get(name, {})
        row = [encoder(name, card), background(card)]
        row.append(count(part(content, "vectors", "input").get("n_genes")))
        for side in shown or ["input"]:
            row += _scores(part(content, "vectors", side), notes)
        rows.append(row)
    heads = ["Set recovery", "Without paralogs", "Co-expression R²", "Spearman"]
    groups = [("", 3), *((SIDES[side], len(heads)) for side in shown or ["input"])]
    caption = (
        f"Gene vectors on {n_sets(biology)} gene sets: AUROC within against between sets; below, random sets and p"
    )
    columns = ["Encoder", BACKGROUND, "Genes", *heads * len(shown or ["input"])]
    return Table("biology", caption, columns, rows, groups, notes.texts, wide=True)


def _scores(block: Mapping[str, Any], notes: Notes) -> list[Cell]:
    row = []
    for key in ("recovery", "without_paralogs"):
        entry = part(block, key)
        null = entry.get("null_mean")
        beside = "" if null is None else f"({decimals(null)}) {p_text(entry.get('p'))}".strip()
        tip = f"sd over {entry.get('n_sets')} sets {decimals(entry['sd'])}" if entry.get("sd") is not None else ""
        row.append(_circular(value(entry.get("mean"), decimals, entry.get("reason"), notes, beside, tip), entry, notes))
    entry = part(block, "coexpression")
    spread = "" if entry.get("sd") is None else f"± {decimals(entry['sd'])}"
    row.append(_circular(value(entry.get("r2"), decimals, entry.get("reason"), notes, spread), entry, notes))
    p = p_text(entry.get("spearman_p"))
    row.append(_circular(value(entry.get("spearman"), decimals, entry.get("reason"), notes, p), entry, notes))
    return row


def _circular(cell: Cell, entry: Mapping[str, Any], notes: Notes) -> Cell:
    """Mark a score that a built-in prior makes circular, with the reason as footnote."""
    why = entry.get("circular")
    if not why or cell.text == MISSING:
        return cell
    said = f"{DAGGER} circular by construction, left out of every relation: {why}"
    return replace(cell, text=f"{cell.text} {DAGGER}", note=notes.number(said), tip=str(why))


def sets(biology: Blocks) -> Table:
    """One row a gene set and one column an encoder, the sets of the highest mean first; input vectors."""
    found = {
        name: {one["name"]: one for one in part(content, "vectors", "input", "recovery").get("sets") or []}
        for name, content in biology.items()
    }
    found = {name: of_set for name, of_set in found.items() if of_set}
    means: dict[str, float] = {}
    for title in dict.fromkeys(title for of_set in found.values() for title in of_set):
        known = [of_set[title]["auroc"] for of_set in found.values() if title in of_set]
        means[title] = float(np.mean([x for x in known if x is not None] or [0.0]))
    chosen = sorted(means, key=lambda title: (-means[title], title))[:MOST_SETS]
    notes, rows = Notes(), []
    for title in chosen:
        size = next(of_set[title]["size"] for of_set in found.values() if title in of_set)
        row = [words(title), count(size)]
        for of_set in found.values():
            one = of_set.get(title) or {"auroc": None, "p": None}
            why = "too few of its genes have a vector"
            row.append(value(one["auroc"], decimals, why, notes, p_text(one["p"])))
        rows.append(row)
    shown = "" if len(chosen) == len(means) else f", the {len(chosen)} of the highest mean"
    caption = f"Recovery of each of {len(means)} gene sets{shown}: AUROC, input vectors"
    return Table("biology-sets", caption, ["Gene set", "Genes", *found], rows, notes=notes.texts, wide=True)


def biology_plot(biology: Blocks) -> pd.DataFrame:
    """Give the scores behind `metrics/plots/biology.csv`; low, high: mean ± sd (over sets; co-expression: folds).

    null: of random sets of the same size. n: sets, or genes of the co-expression. circular: why a built-in prior makes
    the score circular. Columns: PLOT_COLUMNS.
    """
    rows = []
    for name, content in biology.items():
        for side in SIDES:
            for key, (number, title) in SCORES.items():
                entry = part(content, "vectors", side, key)
                mean, sd = entry.get(number), entry.get("sd") or 0.0
                ends = {"low": None, "high": None} if mean is None else {"low": mean - sd, "high": mean + sd}
                null = entry.get("null_mean", 0.0 if key == "coexpression" and mean is not None else None)
                more = {
                    "null": null,
                    "n": entry.get("n_genes" if key == "coexpression" else "n_sets"),
                    "circular": entry.get("circular"),
                    "reason": entry.get("reason"),
                }
                rows.append({"encoder": name, "vectors": side, "measure": title, "mean": mean, **ends, **more})
    return pd.DataFrame(rows, columns=PLOT_COLUMNS).astype({"n": "Int64"})
