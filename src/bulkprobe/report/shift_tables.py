"""How far bulk input lies from what a model was trained on: sentences and tables made from `metrics/shift`.

Nothing is measured here. Every table is of encoders in the order of params.yaml; what one lacks is a dash or a
sentence with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from bulkprobe.report.cells import Cards, Cell, Notes, Table, count, plus, words
from bulkprobe.report.measured import (
    BACKGROUND,
    Blocks,
    background,
    decimals,
    encoder,
    having,
    one_or_range,
    p_text,
    part,
    percent,
    power,
    tiny,
    value,
    whole,
    without,
)

SCORES = {
    "mutation_within_type": "within-type AUROC",
    "mutation_pan_cancer": "pan-cancer AUROC",
    "survival": "C-index",
}
KEPT = 0.9  # share of the signal above guessing that counts as kept
LITTLE = 0.05  # AUROC above guessing below which there is nothing to lose
LADDER_COLUMNS = ["encoder", "depth", "measure", "value", "low", "high", "n", "reason"]
PLOT_COLUMNS = ["encoder", "measure", "value", "low", "high", "n", "reason"]


def section(shift: Blocks, cards: Cards) -> dict[str, Any]:
    """Make what the template says and shows; empty without any file, and a table without rows is not drawn."""
    if not shift:
        return {}
    return dict(
        said=reference_said(shift),
        overview=overview(shift, cards),
        biomarkers=biomarkers(shift),
        nuisance=nuisance(shift, cards),
        ladder=ladder(shift),
        ladder_said=[kept(name, block) for name, block in having(shift, "ladder").items()],
        no_ladder=without(shift, "ladder"),
        feeding=feeding(shift),
        feeding_said=feeding_said(shift),
        no_feeding=without(shift, "feeding"),
    )


def _counted(shift: Blocks, key: str) -> str:
    return one_or_range([int(block[key]) for block in having(shift, "space").values() if block.get(key)])


def reference_said(shift: Blocks) -> list[str]:
    """Say what bulk is compared with, and what that can show."""
    references = list(having(shift, "reference").values())
    if not references:
        return [f"There is no single-cell reference ({without(shift, 'reference')})."]
    first = references[0]
    return [f"{str(first['said'])[:1].upper()}{str(first['said'])[1:].removesuffix('.')}."]


def overview(shift: Blocks, cards: Cards) -> Table:
    """Input and embedding space at a glance, one row an encoder; the reference's value stands below bulk's."""
    notes, rows = Notes(), []
    for name, content in shift.items():
        bulk, reference = part(content, "input", "bulk"), part(content, "input", "reference")
        card = cards.get(name, {})
        row = [encoder(name, card), background(card)]
        for key, form in (
            ("expressed", whole),
            ("lost_to_vocabulary", percent),
            ("lost_to_length", percent),
            ("zero_fraction", percent),
        ):
            row.append(_beside(part(bulk, key), part(reference, key), "mean", form, notes))
        inputs = part(content, "input")
        row.append(value(inputs.get("total_variation"), decimals, inputs.get("reason") or "no reference", notes))
        domain, mmd, nearest = (part(content, "space", key) for key in ("domain_auroc", "mmd", "nearest"))
        row.append(value(domain.get("value"), decimals, domain.get("reason"), notes, _ends(domain)))
        row.append(value(mmd.get("value"), decimals, mmd.get("reason"), notes, p_text(mmd.get("p"))))
        tumours, cells = (part(content, "space", side) for side in ("bulk", "reference"))
        row.append(_beside(tumours, cells, "effective_rank", lambda x: f"{x:.1f}", notes))
        row.append(_beside(tumours, cells, "anisotropy", decimals, notes))
        row.append(value(nearest.get("median"), decimals, nearest.get("reason"), notes, _ends(nearest)))
        rows.append(row)
    columns = ["Encoder", BACKGROUND, "Expressed", "Lost: vocabulary", "Lost: length", "Zeros"]
    columns += ["TV", "Domain AUROC", "MMD", "Effective rank", "Anisotropy", "Nearest"]
    groups = [("", 2), ("What the model reads: bulk (reference)", 5), ("Where the embedding puts it", 5)]
    caption = f"Bulk against the reference: {_counted(shift, 'n_bulk')} tumours, {_counted(shift, 'n_reference')} cells"
    return Table("shift", caption, columns, rows, groups, notes.texts, wide=True)


def _beside(bulk: Mapping[str, Any], reference: Mapping[str, Any], key: str, form: Any, notes: Notes) -> Cell:
    other = reference.get(key)
    beside = "" if other is None else f"({form(float(other))})"
    return value(bulk.get(key), form, bulk.get("reason"), notes, beside)


def _ends(entry: Mapping[str, Any], form: Callable[[float], str] = "{:.2f}".format) -> str:
    low, high = entry.get("low"), entry.get("high")
    return "" if low is None or high is None else f"{form(low)} to {form(high)}".replace("-", "−")


def biomarkers(shift: Blocks) -> Table:
    """Say for each biomarker gene in which share of the tumours that express it a model does not see it."""
    blocks = {name: block["biomarkers"] for name, block in having(shift, "input").items() if block.get("biomarkers")}
    genes, notes = list(dict.fromkeys(gene for block in blocks.values() for gene in block)), Notes()
    rows = []
    for gene in genes:
        found = [block.get(gene) or {"measured": False} for block in blocks.values()]
        rows.append([words(gene), *(_biomarker(one, notes) for one in found)])
    caption = "Biomarker genes: share of the tumours expressing one in which the model does not see it"
    return Table("shift-biomarkers", caption, ["Gene", *blocks], rows, notes=notes.texts)


def _biomarker(found: Mapping[str, Any], notes: Notes) -> Cell:
    if not found.get("measured"):
        return value(None, percent, "the cohort does not measure this gene", notes)
    parts = [found.get("lost_to_vocabulary"), found.get("lost_to_length")]
    if None in parts:
        return value(None, percent, "no tumour expresses this gene", notes)
    why = "" if found.get("known") else "no token"
    return value(sum(parts), percent, None, notes, why, tip=f"expressed in {percent(found.get('expressed') or 0.0)}")


def nuisance(shift: Blocks, cards: Cards) -> Table:
    """Show how well a linear probe reads what has nothing to do with biology from the embedding."""
    notes, rows = Notes(), []
    for name, content in shift.items():
        row = [encoder(name, cards.get(name, {}))]
        for key in ("library_size", "n_expressed"):
            entry = part(content, "nuisance", key)
            row += [value(entry.get("value"), decimals, entry.get("reason"), notes)]
        for key in ("site", "plate"):
            entry = part(content, "nuisance", key)
            tip = f"{entry.get('classes')} classes" if entry.get("classes") else ""
            row += [
                value(entry.get(k), decimals, entry.get("reason"), notes, tip=tip) for k in ("value", "within_type")
            ]
        row.append(count(part(content, "nuisance", "site").get("n")))
        rows.append(row)
    columns = [
        "Encoder",
        "Library size",
        "Expressed genes",
        "all pairs",
        "within type",
        "all pairs",
        "within type",
        "n",
    ]
    groups = [("", 1), ("R²", 2), ("Site: AUROC", 2), ("Plate: AUROC", 2), ("", 1)]
    caption = "What a linear probe reads from the embedding besides biology"
    return Table("shift-nuisance", caption, columns, rows, groups, notes.texts)


def ladder(shift: Blocks) -> Table:
    """Every rung of every depth ladder; differences of the scores to full depth stand below them."""
    notes, rows = Notes(), []
    for name, block in having(shift, "ladder").items():
        for rung in block["depths"]:
            drift, full = rung["drift"], block["full"]
            row = [words(name), Cell(power(rung["depth"]), sort=f"{rung['depth']}", number=True), count(rung["n"])]
            row.append(value(rung["expressed"], whole, "nothing is left to read", notes))
            row.append(value(drift.get("mean"), tiny, drift.get("reason") or "no embedding", notes, _ends(drift, tiny)))
            row.append(value(rung["relative_drift"], decimals, "no embedding", notes))
            row.append(value(rung["neighbour_overlap"], percent, "no embedding", notes))
            row += [_score_cell(rung["scores"], full, key, notes) for key in SCORES]
            row.append(count(rung["n_lost"]))
            rows.append(row)
        notes.texts.append(f"{name}: full depth, scored again, differs from the tables above by {block['gap']:.1g}")
    columns = ["Encoder", "Counts", "Tumours", "Genes left", "Drift", "Drift / distance of patients"]
    columns += ["Neighbours kept", *SCORES.values(), "Nothing left"]
    caption = "Depth ladder: the same test tumours thinned, probes fitted at full depth (below: change from full depth)"
    return Table("shift-ladder", caption, columns, rows, notes=notes.texts, wide=True)


def _score_cell(scores: Mapping[str, Any], base: Mapping[str, Any], key: str, notes: Notes) -> Cell:
    entry, before = scores.get(key) or {}, (base.get(key) or {}).get("value")
    number = entry.get("value")
    change = "" if number is None or before is None else plus(number - before)
    return value(number, decimals, entry.get("reason"), notes, change)


def kept(name: str, block: Mapping[str, Any]) -> str:
    """Say down to how many counts an encoder keeps most of its within-type signal above guessing."""
    entry = block["full"]["mutation_within_type"]
    full, n = entry["value"], f"n = {block['n']} test patients"
    if full is None:
        return f"{name}: no within-type AUROC at full depth ({entry['reason']})."
    if full - 0.5 < LITTLE:
        return f"{name} has almost no within-type signal to lose (AUROC {full:.3f} at full depth, {n})."
    last = None
    for rung in sorted(block["depths"], key=lambda rung: -rung["depth"]):
        found = (rung["scores"].get("mutation_within_type") or {}).get("value")
        if found is None or found - 0.5 < KEPT * (full - 0.5):
            break
        last = rung["depth"]
    what = f"of its within-type signal above 0.5 (AUROC {full:.3f} at full depth, {n})"
    if last is None:
        deepest = max(rung["depth"] for rung in block["depths"])
        return f"{name} keeps less than {KEPT:.0%} {what} already at {power(deepest)} counts."
    lowest = ", the lowest depth tried" if last == min(rung["depth"] for rung in block["depths"]) else ""
    return f"{name} keeps {KEPT:.0%} {what} down to {power(last)} counts{lowest}."


def feeding(shift: Blocks) -> Table:
    """One row an encoder and way of feeding it, against its own default on the same patients."""
    notes, rows = Notes(), []
    for name, block in having(shift, "feeding").items():
        for variant in block["variants"]:
            why = variant.get("reason")
            row = [words(name), words(variant["name"]), count(variant.get("n") or None)]
            row.append(value(variant.get("cosine"), decimals, why or "widths differ", notes))
            row.append(value(variant.get("cka"), decimals, why or "undefined", notes))
            row.append(value(variant.get("neighbour_overlap"), percent, why or "undefined", notes))
            for key in SCORES:
                entry = {} if why else (variant.get("difference") or {}).get(key) or {}
                after = None if why else ((variant.get("scores") or {}).get(key) or {}).get("value")
                to = "" if after is None else f"to {decimals(after)}"
                row.append(value(entry.get("value"), plus, why or entry.get("reason"), notes, to))
            rows.append(row)
    columns = ["Encoder", "Fed", "Tumours", "Cosine", "CKA", "Neighbours kept", *SCORES.values()]
    groups = [("", 3), ("Embedding, against the default", 3), ("Change of the score", 3)]
    caption = "The same encoder fed in other ways"
    return Table("shift-feeding", caption, columns, rows, groups, notes.texts)


def feeding_said(shift: Blocks) -> str:
    """Set the largest change that feeding makes beside the spread between the models themselves."""
    blocks, moves, bases = having(shift, "feeding"), [], []
    for name, block in blocks.items():
        bases.append(block["base"]["mutation_within_type"]["value"])
        for variant in block["variants"]:
            change = ((variant.get("difference") or {}).get("mutation_within_type") or {}).get("value")
            if change is not None:
                moves.append((abs(change), change, f"{name} fed {variant['name']}"))
    if not moves:
        return ""
    _, change, who = max(moves)
    n = one_or_range([int(block["n"]) for block in blocks.values()])
    known = [base for base in bases if base is not None]
    span = f"; the models' own, fed by default, run from {min(known):.3f} to {max(known):.3f}" if len(known) > 1 else ""
    return f"The largest change: {who}, within-type AUROC {plus(change)} ({n} patients){span}."


def ladder_plot(shift: Blocks) -> pd.DataFrame:
    """Give the ladders behind `metrics/plots/ladder.csv`; low, high: quantiles 5 and 95 % over tumours, of the drift.

    Columns: LADDER_COLUMNS.
    """
    rows = []
    for name, block in having(shift, "ladder").items():
        for rung in block["depths"]:
            place = {"encoder": name, "depth": rung["depth"], "n": rung["n"]}
            ends = {key: rung["drift"].get(key) for key in ("low", "high")}
            rows.append({**place, "measure": "drift", "value": rung["drift"].get("mean"), **ends})
            rows.append({**place, "measure": "neighbours kept", "value": rung["neighbour_overlap"]})
            for key, title in SCORES.items():
                entry = rung["scores"].get(key) or {}
                rows.append({**place, "measure": title, "value": entry.get("value"), "reason": entry.get("reason")})
    return pd.DataFrame(rows, columns=LADDER_COLUMNS).astype({"n": "Int64"})


def shift_plot(shift: Blocks) -> pd.DataFrame:
    """Give the measures behind `metrics/plots/shift.csv`; n: tumours. Columns: PLOT_COLUMNS."""
    rows: list[dict[str, Any]] = []
    for name, content in shift.items():
        bulk, inputs, space = part(content, "input", "bulk"), part(content, "input"), part(content, "space")
        variation = {"value": inputs.get("total_variation"), "reason": inputs.get("reason")}
        measures = [
            ("lost to vocabulary", part(bulk, "lost_to_vocabulary"), "mean", bulk.get("n")),
            ("lost to length", part(bulk, "lost_to_length"), "mean", bulk.get("n")),
            ("zeros", part(bulk, "zero_fraction"), "mean", bulk.get("n")),
            ("total variation of the input", variation, "value", bulk.get("n")),
            ("domain AUROC", part(space, "domain_auroc"), "value", space.get("n_bulk")),
            ("MMD", part(space, "mmd"), "value", space.get("n_bulk")),
            ("distance to the nearest cell", part(space, "nearest"), "median", space.get("n_bulk")),
            ("effective rank", part(space, "bulk"), "effective_rank", space.get("n_bulk")),
        ]
        for measure, entry, key, n in measures:
            number, ends = entry.get(key), {end: entry.get(end) for end in ("low", "high")}
            why = None if number is not None else entry.get("reason")
            rows.append({"encoder": name, "measure": measure, "value": number, **ends, "n": n, "reason": why})
    return pd.DataFrame(rows, columns=PLOT_COLUMNS).astype({"n": "Int64"})
