"""What goes with transfer across models, as the page shows it; every number was made by the stage `compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bulkprobe.report.cells import Cards, Notes, Table, count, p_value, words
from bulkprobe.report.measured import BACKGROUND, background, decimals, encoder, value

Relations = Mapping[str, Any]
PLOT_COLUMNS = ["encoder", "panel", "predictor", "transfer", "x", "y", "n", "spearman", "p", "p_holm"]


def relations_of(compare: Mapping[str, Any] | None) -> Relations:
    """Return the block of metrics/compare.json; empty in older files."""
    return (compare or {}).get("relations") or {}


def section(compare: Mapping[str, Any] | None, cards: Cards) -> dict[str, Any]:
    """Make what the template says and shows; empty without any foundation model."""
    found = relations_of(compare)
    if not found or not found["rows"]:
        return {}
    return dict(
        headline=found["sentence"],
        note=found["note"],
        left_out="; ".join(f"{name}: {why}" for name, why in found["left_out"].items()),
        tests=tests(found),
        models=models(found, cards),
        sentences=[test["sentence"] for test in found["tests"] if test["spearman"] is not None],
    )


def titles(test: Mapping[str, Any]) -> tuple[str, str]:
    """Split the title of a relation into what may explain and what is explained."""
    what, _, transfer = str(test["title"]).rpartition(" and ")
    return what, transfer


def tests(found: Relations) -> Table:
    """Every relation with the number of models it rests on, its p-values and who is left out."""
    notes, rows = Notes(), []
    for test in found["tests"]:
        what, transfer = titles(test)
        row = [words(what[:1].upper() + what[1:]), words(transfer), count(test["n"])]
        row.append(value(test["spearman"], decimals, test["reason"], notes))
        row += [p_value(test["p"]), p_value(test["p_holm"])]
        orders = f"{'all' if test['exact'] else 'drawn:'} {test['permutations']:,}" if test["permutations"] else ""
        row.append(words(orders))
        row.append(words(", ".join(test["left_out"]), tip="; ".join(f"{k}: {v}" for k, v in test["left_out"].items())))
        for why in dict.fromkeys(test["left_out"].values()):
            names = ", ".join(name for name, said in test["left_out"].items() if said == why)
            notes.number(f"{what} leaves out {names}: {why}")
        rows.append(row)
    columns = ["What may explain", "What is explained", "Models", "Spearman", "p", "p (Holm)", "Orders", "Left out"]
    return Table("relations", "Relations to transfer, over foundation models", columns, rows, notes=notes.texts)


def models(found: Relations, cards: Cards) -> Table:
    """The numbers behind the relations, one row a model."""
    heads = {test["predictor"]: titles(test)[0] for test in found["tests"]}
    ends = {test["transfer"]: titles(test)[1] for test in found["tests"]}
    notes, rows = Notes(), []
    for row in found["rows"]:
        card = cards.get(row["encoder"], {})
        cells = [encoder(row["encoder"], card), background(card)]
        for key in heads:
            number = row["predictors"].get(key)
            cells.append(value(number, _compact, row["left_out"].get(key), notes))
        cells += [value(row["transfer"].get(key), decimals, "undefined for this encoder", notes) for key in ends]
        rows.append(cells)
    columns = ["Encoder", BACKGROUND, *heads.values(), *ends.values()]
    columns = [column[:1].upper() + column[1:] for column in columns]
    return Table("relation-models", "The models and their numbers", columns, rows, notes=notes.texts, wide=True)


def _compact(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 or float(number).is_integer() else decimals(number)


def pairs(found: Relations, test: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Return (encoder, predictor, transfer) of the models that a relation rests on."""
    chosen = [row for row in found["rows"] if row["encoder"] not in test["left_out"]]
    return [(row["encoder"], row["predictors"][test["predictor"]], row["transfer"][test["transfer"]]) for row in chosen]


def relation_plot(compare: Mapping[str, Any] | None, order: Sequence[str]) -> pd.DataFrame:
    """Give the dots behind `metrics/plots/relations.csv`, one row a relation and model. Columns: PLOT_COLUMNS."""
    found, rows = relations_of(compare), []
    for test in found.get("tests", []):
        what, transfer = titles(test)
        kept = {key: test[key] for key in ("n", "spearman", "p", "p_holm")}
        panel = f"{what} · {transfer} (n = {test['n']})"
        for name, x, y in sorted(pairs(found, test), key=lambda pair: order.index(pair[0])):
            place = {"encoder": name, "panel": panel, "predictor": what, "transfer": transfer}
            rows.append({**place, "x": x, "y": y, **kept})
    return pd.DataFrame(rows, columns=PLOT_COLUMNS)
