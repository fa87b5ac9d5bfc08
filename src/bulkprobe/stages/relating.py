"""Does what a model knows, or how far its input lies from its training, go with what it transfers? Across models.

Few models, many predictors: every relation is tested by permutation, all of them are corrected together, and each is
said in one sentence that names the number of models it rests on.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bulkprobe.probes.units import rounded
from bulkprobe.report.tables import summarise
from bulkprobe.statistics import holm, spearman_permutation

Metrics = Mapping[str, Any]
Values = dict[str, float | None]
PERMUTATIONS = 9999
TELLING = 5  # models: with 4, the smallest possible p is 2 of 24 orders
SEEN_NOTHING = "an untrained stand-in has seen nothing"
NOTE = (
    "Spearman's correlation over foundation models, baselines and untrained twins left out; p-values two-sided by "
    "permutation, adjusted by Holm over all relations. Gene vectors are those at the input of a model. Models of one "
    "family are no independent witnesses, a dozen models rank only strong relations, and a correlation names no cause: "
    "models differ in everything at once"
)


@dataclass(frozen=True)
class Predictor:
    """Something that may explain transfer: where it is read, and whether a prior can make it circular."""

    title: str
    read: Callable[[Metrics, Metrics], Any]  # from the shift and the biology JSON of one encoder
    source: str  # the section of params.yaml that must list the encoder
    block: Callable[[Metrics, Metrics], Metrics] = lambda shift, biology: {}  # holds `reason` and `circular`


def _vectors(key: str) -> Callable[[Metrics, Metrics], Metrics]:
    def block(shift: Metrics, biology: Metrics) -> Metrics:
        vectors: Metrics = (biology.get("vectors") or {}).get("input") or {}
        return vectors.get(key) or {"reason": vectors.get("reason")}

    return block


def _space(key: str) -> Callable[[Metrics, Metrics], Metrics]:
    def block(shift: Metrics, biology: Metrics) -> Metrics:
        space: Metrics = shift.get("space") or {}
        return space.get(key) or {"reason": space.get("reason")}

    return block


def _lost(shift: Metrics, biology: Metrics) -> float | None:
    bulk = (shift.get("input") or {}).get("bulk") or {}
    parts = [(bulk.get(key) or {}).get("mean") for key in ("lost_to_vocabulary", "lost_to_length")]
    known = [float(part) for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _of(block: Callable[[Metrics, Metrics], Metrics], key: str, title: str, source: str) -> Predictor:
    return Predictor(title, lambda shift, biology: block(shift, biology).get(key), source, block)


def _header(key: str) -> Callable[[Metrics, Metrics], Any]:
    return lambda shift, biology: shift.get(key) if shift.get(key) is not None else biology.get(key)


def _bulk(shift: Metrics, biology: Metrics) -> float | None:
    seen = _header("trained_on")(shift, biology)
    return float(seen == "bulk") if seen else None


PREDICTORS: dict[str, Predictor] = {
    "biology_recovery": _of(_vectors("recovery"), "mean", "set recovery", "biology"),
    "biology_without_paralogs": _of(_vectors("without_paralogs"), "mean", "set recovery without paralogs", "biology"),
    "biology_coexpression": _of(_vectors("coexpression"), "r2", "co-expression R²", "biology"),
    "shift_domain_auroc": _of(_space("domain_auroc"), "value", "domain AUROC", "shift"),
    "shift_mmd": _of(_space("mmd"), "value", "MMD to the reference", "shift"),
    "shift_lost": Predictor(
        "share of expressed genes lost", _lost, "shift", lambda shift, biology: shift.get("input") or {}
    ),
    "shift_effective_rank": _of(_space("bulk"), "effective_rank", "effective rank", "shift"),
    "parameters": Predictor(
        "number of parameters",
        _header("parameters"),
        "shift",
        lambda shift, biology: {"reason": shift.get("parameters_reason")},
    ),
    "training_samples": Predictor("number of training samples", _header("training_samples"), "shift"),
    "trained_on_bulk": Predictor("training on bulk samples", _bulk, "shift"),
}
OF_TRAINING = ("training_samples", "trained_on_bulk")
TRANSFER = {
    "within_type_auroc": ("mutation_within_type", "within-type AUROC"),
    "c_index": ("survival", "C-index"),
}


def relate(
    metrics: Mapping[str, Mapping[str, Metrics]],
    shift: Mapping[str, Metrics],
    biology: Mapping[str, Metrics],
    models: Sequence[str],
    twins: Sequence[str],
    *,
    seed: int,
    level: float,
) -> dict[str, Any]:
    """Return the block `relations` of metrics/compare.json.

    metrics: encoder -> {"mutation", "survival"}; shift, biology: content of their metrics files by encoder. models:
    encoders with weights, in order; twins: those of them that are untrained twins. level: of intervals; 1 - level is
    the significance.
    """
    summary = summarise(*({name: one[task] for name, one in metrics.items()} for task in ("mutation", "survival")))
    rows, left_out = [], {}
    for name in models:
        absent = metrics[name]["mutation"].get("absent")
        if name in twins:
            left_out[name] = "an untrained twin"
        elif absent:
            left_out[name] = str(absent)
        else:
            untrained = bool(metrics[name]["mutation"].get("untrained"))
            rows.append(_row(name, untrained, summary[name], shift.get(name), biology.get(name)))
    pairs = [(predictor, transfer) for predictor in PREDICTORS for transfer in TRANSFER]
    tests = [_tested(rows, predictor, transfer, seed) for predictor, transfer in pairs]
    for test, p in zip(tests, holm([test["spearman_p"] for test in tests]), strict=True):
        test["p"], test["p_holm"] = _short(test.pop("spearman_p")), _short(p)
    untrained_ones = [row["encoder"] for row in rows if row["untrained"]]
    tested = [test for test in tests if test["p"] is not None]
    for test in tests:
        test["sentence"] = _sentence(test, rows, len(tested), 1.0 - level)
    return {
        "n_encoders": len(rows),
        "untrained": untrained_ones,
        "simulated": any(bool(one["mutation"].get("simulated")) for one in metrics.values()),
        "left_out": left_out,
        "sentence": _headline(tested, rows, 1.0 - level),
        "note": NOTE,
        "rows": rows,
        "tests": tests,
    }


def _row(
    name: str, untrained: bool, scores: Mapping[str, float | None], shift: Metrics | None, biology: Metrics | None
) -> dict[str, Any]:
    """What is known of one model; a predictor is None with its reason in `left_out`."""
    given = (shift or {}, biology or {})
    values: Values = {}
    left_out: dict[str, str] = {}
    for key, predictor in PREDICTORS.items():
        value, block = predictor.read(*given), predictor.block(*given)
        why = block.get("circular")
        if why:
            why = f"circular by construction: {why}"
        elif untrained and key in OF_TRAINING:
            why = SEEN_NOTHING
        elif value is None:
            here = shift if predictor.source == "shift" else biology
            unlisted = f"not in {predictor.source}.encoders of params.yaml"
            why = unlisted if here is None else block.get("reason") or here.get("absent") or "not stated"
        if why:
            left_out[key] = str(why)
        values[key] = None if why else rounded(value)
    return {
        "encoder": name,
        "untrained": untrained,
        "trained_on": _header("trained_on")(*given) or None,
        "saw_tcga": _header("saw_tcga")(*given),
        "predictors": values,
        "transfer": {key: scores.get(task) for key, (task, _) in TRANSFER.items()},
        "left_out": left_out,
    }


def _tested(rows: Sequence[Mapping[str, Any]], predictor: str, transfer: str, seed: int) -> dict[str, Any]:
    pairs, left_out = [], {}
    for row in rows:
        x, y = row["predictors"][predictor], row["transfer"][transfer]
        if x is None:
            left_out[row["encoder"]] = row["left_out"][predictor]
        elif y is None:
            left_out[row["encoder"]] = f"its {TRANSFER[transfer][1]} is undefined"
        else:
            pairs.append((x, y))
    # A seed of its own, so that a relation's p does not depend on which others are tested.
    own = zlib.crc32(f"{seed}/{predictor}/{transfer}".encode())
    found = spearman_permutation([x for x, _ in pairs], [y for _, y in pairs], n_permutations=PERMUTATIONS, seed=own)
    return {
        "predictor": predictor,
        "transfer": transfer,
        "title": f"{PREDICTORS[predictor].title} and {TRANSFER[transfer][1]}",
        "n": found.n,
        "spearman": rounded(found.rho),
        "spearman_p": found.p,
        "permutations": found.n_permutations,
        "exact": found.exact,
        "left_out": left_out,
        "reason": found.reason,
    }


def _sentence(test: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], tested: int, significance: float) -> str:
    known = [row for row in rows if row["encoder"] not in test["left_out"]]
    over, what = _over(known), PREDICTORS[test["predictor"]].title
    circular = [name for name, why in test["left_out"].items() if why.startswith("circular")]
    without = f" Left out as circular: {', '.join(circular)}." if circular else ""
    numbers = (
        ""
        if test["p"] is None
        else f"Spearman {test['spearman']:.2f}, p {test['p']:.2g}".replace("Spearman -", "Spearman −")
    )
    if test["n"] < TELLING:
        shown = f" ({numbers})" if numbers else ""
        return f"{over}: too few to conclude anything about {test['title']}{shown}.{without}"
    if test["p"] is None:
        return f"{over}: {test['title']} cannot be related, since {test['reason']}.{without}"
    if test["p_holm"] <= significance:
        goes = "rises" if test["spearman"] > 0 else "falls"
        corrected = f"{numbers}; {test['p_holm']:.2g} corrected for {tested} relations"
        said = f"{TRANSFER[test['transfer']][1]} {goes} with {what} ({corrected}); that names no cause"
    elif test["p"] <= significance:
        said = f"the relation between {test['title']} does not outlast the correction for {tested} ({numbers})"
    else:
        said = f"no relation between {test['title']} can be told from chance ({numbers})"
    return f"{over}: {said}.{without}"


def _headline(tested: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], significance: float) -> str:
    found = [test["title"] for test in tested if test["n"] >= TELLING and test["p_holm"] <= significance]
    if not any(test["n"] >= TELLING for test in tested):
        return f"{_over(rows)}: too few to conclude anything about what goes with transfer."
    said = f"told from chance after correction: {'; '.join(found)}" if found else "none can be told from chance"
    return f"{_over(rows)}: of {len(tested)} relations to transfer, {said}. A correlation over models names no cause."


def _over(rows: Sequence[Mapping[str, Any]]) -> str:
    untrained = sum(row["untrained"] for row in rows)
    over = f"Over {len(rows) or 'no'} encoder{'s' if len(rows) > 1 else ''}"
    if not untrained:
        return over
    if untrained == len(rows):
        return f"{over}, {'all of them untrained stand-ins' if untrained > 1 else 'an untrained stand-in'}"
    return f"{over}, {untrained} of them untrained"


def _short(p: float | None) -> float | None:
    return None if p is None else float(f"{p:.4g}")
