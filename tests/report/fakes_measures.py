"""Invented content of metrics/shift and metrics/biology, in the shapes that the two stages write."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

DEPTHS = (10_000_000, 1_000_000, 100_000, 10_000, 1000)
GENES = ("TP53", "KRAS", "PBRM1", "GATA3", "MIR21")
TYPES = ("KIRC", "LUAD")
SAID = "no single cells were given: the tumours were thinned to about 5,000 counts, so this is a lower bound"
NO_TOKENISER = "this encoder has no tokeniser"
NOT_CHOSEN = "switched off in params.yaml (ladder: false)"
# Model -> pre-training, profiles seen, what it reads, a prior that makes its co-expression circular.
MODELS: dict[str, tuple[str, int | None, str, str | None]] = {
    "cellfm": ("single cells", 100_000_000, "log value", None),
    "scfoundation": ("single cells", 50_000_000, "log value", None),
    "bulkformer": ("bulk", 522_769, "log value", "its graph is TCGA co-expression"),
    "geneformer": ("single cells", 104_000_000, "rank value", None),
    "scgpt": ("single cells", 33_000_000, "bin", None),
    "scbert": ("single cells", 1_126_580, "bin", "its gene2vec vectors were trained on co-expression"),
}


def _rng(encoder: str, what: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(f"{encoder} {what}".encode()))


def _spread(middle: float, share: float = 0.2) -> dict[str, float]:
    ends = {"low": round(middle * (1 - share), 6), "high": round(middle * (1 + share), 6)}
    return {"mean": round(middle, 6), "median": round(middle, 6), **ends}


def _header(encoder: str, untrained: bool, absent: str | None) -> dict[str, Any]:
    model = encoder.split("_")[0]
    kind = "foundation" if model in MODELS else "baseline"
    trained_on, samples, _, _ = MODELS.get(model, ("", None, "", None))
    parameters = None if kind == "baseline" else 10_000 * (1 + len(encoder))
    return {
        **{"encoder": encoder, "model": model, "kind": kind, "release": "untrained" if untrained else "given"},
        **{"untrained": untrained, "simulated": True, "absent": absent},
        **{"parameters": parameters, "parameters_reason": None if parameters else "a baseline has none"},
        **{"trained_on": trained_on, "training_samples": samples, "saw_tcga": model == "bulkformer" or False},
    }


def shift(
    encoder: str, within: float | None = 0.62, untrained: bool = True, absent: str | None = None
) -> dict[str, Any]:
    """metrics/shift/<encoder>.json; geneformer, scfoundation and pca have a ladder, foundation models are fed anew."""
    head = _header(encoder, untrained, absent)
    if absent:
        blocks = ("reference", "input", "space", "nuisance", "ladder", "feeding")
        return {**head, **{block: {"reason": absent} for block in blocks}}
    return {
        **head,
        "reference": {
            **{"kind": "pseudo_cells", "said": SAID, "n": 300, "median_counts": 5012.0, "file": None},
            **{"sha256": None, "reason": None},
        },
        "input": _input(encoder, head["kind"] == "baseline"),
        "space": _space(encoder),
        "nuisance": _nuisance(encoder),
        "ladder": _ladder(encoder, within) if head["model"] in ("geneformer", "scfoundation", "pca") else _no_ladder(),
        "feeding": _feeding(encoder, within, head["kind"] == "baseline"),
    }


def _input(encoder: str, baseline: bool) -> dict[str, Any]:
    if baseline:
        return {"reason": NO_TOKENISER, "bulk": None, "reference": None, "histogram": None, "biomarkers": {}}
    rng = _rng(encoder, "input")
    vocabulary, length = float(rng.uniform(0, 0.1)), float(rng.uniform(0, 0.6)) if encoder != "scgpt" else 0.0
    share = rng.dirichlet(np.ones(20) * 2, size=2).round(6)

    def side(expressed: float, lost: float) -> dict[str, Any]:
        zeros = {"zero_fraction": _spread(1 - expressed / 3000, 0.05), "tokens": _spread(expressed * (1 - lost))}
        sides = {"lost_to_vocabulary": _spread(vocabulary), "lost_to_length": _spread(lost)}
        return {"n": 300, "expressed": _spread(expressed), **sides, **zeros}

    return {
        **{"reason": None, "reads": MODELS[encoder.split("_")[0]][2]},
        **{"bulk": side(2710.0, length), "reference": side(1204.0, 0.0)},
        "histogram": {
            **{"edges": [round(float(x), 6) for x in np.linspace(0, 10, 21)]},
            **{"bulk": share[0].tolist(), "reference": share[1].tolist()},
        },
        "total_variation": round(float(np.abs(share[0] - share[1]).sum() / 2), 6),
        "biomarkers": {
            gene: {
                **{"measured": gene != "MIR21", "known": gene not in ("MIR21", "GATA3"), "expressed": 0.9},
                "lost_to_vocabulary": 1.0 if gene == "GATA3" else 0.0,
                "lost_to_length": 0.0 if gene == "GATA3" else round(length * place / 4, 6),
            }
            for place, gene in enumerate(GENES)
        },
    }


def _space(encoder: str) -> dict[str, Any]:
    rng = _rng(encoder, "space")
    domain = float(rng.uniform(0.85, 0.99))

    def side() -> dict[str, float]:
        keys = ("anisotropy", "anisotropy_centred", "effective_rank", "participation_ratio")
        values = (rng.uniform(0.3, 0.99), rng.uniform(0, 0.05), rng.uniform(3, 30), rng.uniform(2, 9))
        return {key: round(float(value), 6) for key, value in zip(keys, values, strict=True)}

    return {
        **{"reason": None, "n_bulk": 300, "n_reference": 300, "width": 128, "bulk": side(), "reference": side()},
        "mmd": {
            **{"value": round(float(rng.uniform(0.1, 0.9)), 6), "p": 0.001, "permutations": 1000},
            **{"bandwidth": 1.2, "reason": None},
        },
        "domain_auroc": {
            **{"value": round(domain, 6), "low": round(domain - 0.02, 6), "high": round(min(1.0, domain + 0.02), 6)},
            **{"folds": 5, "reason": None},
        },
        "nearest": {"median": 2.4, "low": 1.1, "high": 4.8, "reason": None},
    }


def _nuisance(encoder: str) -> dict[str, Any]:
    rng = _rng(encoder, "nuisance")
    linear = {"measure": "R2", "n": 1200, "reason": None}
    classes = {"measure": "AUROC", "n": 1100, "classes": 24, "reason": None}
    flat = encoder == "cellfm"
    return {
        "library_size": {**linear, "value": round(float(rng.uniform(0.2, 0.9)), 6)},
        "n_expressed": {**linear, "value": None if flat else 0.5, "reason": "constant" if flat else None},
        "site": {**classes, "value": 0.81, "within_type": round(float(rng.uniform(0.5, 0.7)), 6)},
        "plate": {**classes, "value": 0.55, "within_type": 0.5},
    }


def scores(within: float | None, pan_cancer: float = 0.7, survival: float = 0.58) -> dict[str, Any]:
    """SCORES of the contract."""
    named = {"mutation_pan_cancer": pan_cancer, "mutation_within_type": within, "survival": survival}
    blocks = {
        key: {"value": value, "n_labels": 3, "reason": None if value is not None else "one class only"}
        for key, value in named.items()
    }
    return {**blocks, "labels": {"pan_cancer/TP53": within}}


def _no_ladder() -> dict[str, Any]:
    return {"reason": NOT_CHOSEN}


def _ladder(encoder: str, within: float | None) -> dict[str, Any]:
    rng, full = _rng(encoder, "ladder"), within if within is not None else 0.5
    depths = []
    for step, depth in enumerate(DEPTHS):
        left = (1.0, 0.98, 0.95, 0.6, 0.1)[step]
        drift = round(float(rng.uniform(0.9, 1.1)) * (0.0, 0.01, 0.05, 0.2, 0.6)[step], 6)
        depths.append(
            {
                **{"depth": depth, "n": 420, "n_thinned": 0 if step == 0 else 420, "n_lost": 0},
                **{
                    "expressed": 2700.0 - 400 * step,
                    "drift": _spread(drift, 0.4),
                    "relative_drift": round(drift / 0.3, 6),
                },
                **{"neighbour_overlap": round(1 - drift, 6)},
                "scores": scores(
                    None if within is None else round(0.5 + left * (full - 0.5), 6), 0.5 + 0.2 * left, 0.5 + 0.08 * left
                ),
            }
        )
    return {
        **{"reason": None, "n": 420, "splits": 1, "target_sum": 1e6 if encoder == "scfoundation" else None},
        **{"rounded": False, "full": scores(within), "gap": 0.0, "depths": depths},
    }


def _feeding(encoder: str, within: float | None, baseline: bool) -> dict[str, Any]:
    if baseline:
        return {"reason": "switched off in params.yaml (feeding: false)"}
    base, variants = scores(within), []
    for name, step in (("input=tpm", -0.04), ("positions=all", 0.01)):
        moved = scores(None if within is None else round(within + step, 6), 0.7 + step, 0.58 - step / 2)
        difference = scores(None if within is None else step, step, -step / 2)
        variants.append(
            {
                **{"name": name, "options": {name.split("=")[0]: name.split("=")[1]}, "n": 260, "cosine": 0.93},
                **{"cka": 0.88, "neighbour_overlap": 0.6, "scores": moved, "difference": difference, "reason": None},
            }
        )
    refused = "this cohort has no TPM"
    nothing = {"n": 0, "cosine": None, "cka": None, "neighbour_overlap": None}
    undefined = {key: None if key == "labels" else {"value": None, "n_labels": 0, "reason": refused} for key in base}
    lost = {"scores": undefined, "difference": undefined, "reason": refused}
    variants.append({"name": "route=singlecell", "options": {"route": "singlecell"}, **nothing, **lost})
    return {"reason": None, "n": 260, "types": list(TYPES), "splits": 3, "base": base, "variants": variants}


def biology(encoder: str, untrained: bool = True, absent: str | None = None) -> dict[str, Any]:
    """metrics/biology/<encoder>.json with five sets; only geneformer has contextual vectors."""
    head = _header(encoder, untrained, absent)
    sets = {"collection": "planted", "source": "the simulator's modules", "sha256": "5a" * 32}
    head["gene_sets"] = {**sets, "n_sets": 6, "n_sets_used": 5, "least": 10, "most": 500}
    if absent:
        return {**head, "vectors": {side: {"reason": absent} for side in ("input", "contextual")}}
    circular = MODELS.get(head["model"], ("", None, "", None))[3]
    if head["kind"] == "baseline":
        circular = "loadings on the cohort's own components are its co-expression"
    vectors = {"input": _vectors(encoder, "input", circular)}
    vectors["contextual"] = (
        _vectors(encoder, "contextual", circular)
        if head["model"] == "geneformer"
        else {"reason": "switched off in params.yaml (contextual: false)"}
    )
    return {**head, "vectors": vectors}


def _vectors(encoder: str, side: str, circular: str | None) -> dict[str, Any]:
    rng = _rng(encoder, side)
    aurocs = rng.uniform(0.45, 0.8, size=5).round(6)
    sets = [
        {
            **{"name": f"module {place}", "size": 20 + place, "auroc": float(auroc)},
            **{"null_mean": 0.5, "null_sd": 0.02, "p": 0.004975},
        }
        for place, auroc in enumerate(aurocs)
    ]
    recovery = {
        **{"mean": round(float(aurocs.mean()), 6), "sd": round(float(aurocs.std(ddof=1)), 6), "n_sets": 5},
        **{"null_mean": 0.5012, "null_sd": 0.009, "p": 0.004975, "circular": None, "reason": None},
    }
    lower = round(recovery["mean"] - 0.03, 6)
    r2 = round(float(rng.uniform(0, 0.3)), 6)
    return {
        **{"reason": None, "what": "the vector that the model looks up for a gene", "n_genes": 2900, "width": 64},
        "n_samples": None if side == "input" else 24,
        "recovery": {**recovery, "sets": sets},
        "without_paralogs": {**recovery, "mean": lower, "pairs_left_out": 120, "rule": "one symbol stem"},
        "coexpression": {
            **{"r2": r2, "sd": 0.02, "folds": 5, "spearman": round(r2 / 2, 6), "spearman_p": 0.02},
            **{"n_genes": 1500, "n_pairs": 20000, "circular": circular, "reason": None},
        },
    }
