"""Invented metrics, predictions and samples in the shapes that the stages hand to the report.

Scores are drawn, and the metrics are computed from them, so that curves, tables and figures agree.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import fakes_measures
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bulkprobe.params import EncoderEntry, load_params
from bulkprobe.report.context import ReportContext
from bulkprobe.report.tables import summarise
from bulkprobe.stages import compare

TOP = Path(__file__).resolve().parents[2]
SPLITS = 10
SLOPES = {"EGFR": 1.8, "KRAS": 1.6, "TP53": 1.6, "PIK3CA": 0.7, "PBRM1": 0.6, "BAP1": 0.0}
GENES = ("EGFR", "KRAS", "TP53", "PIK3CA", "PBRM1", "BAP1")
TYPES = (
    *("BLCA", "BRCA", "COADREAD", "GBMLGG", "HNSC", "KIRC", "KIRP", "LIHC"),
    *("LUAD", "LUSC", "PAAD", "SKCM", "STAD", "UCEC"),
)
MERGED = {"COADREAD": ("COAD", "READ"), "GBMLGG": ("GBM", "LGG")}
PAIRS = {"BRCA": ("TP53", "PIK3CA"), "COAD": ("KRAS", "TP53"), "LUAD": ("EGFR", "KRAS"), "RCC": ("PBRM1", "BAP1")}
# Encoder -> (signal inside a type, signal of the type itself, signal on survival)
STRENGTH = {
    "cellfm": (0.55, 1.4, 0.35),
    "scfoundation": (0.7, 1.3, 0.4),
    "bulkformer": (0.9, 1.2, 0.5),
    "geneformer_v2": (0.5, 1.2, 0.3),
    "scgpt": (0.3, 0.6, 0.1),
    "pca": (0.9, 1.4, 0.45),
    "cancer_type": (0.0, 1.5, 0.0),
    "clinical": (0.1, 0.3, 0.6),
}
SAME = "the score is the same for every test patient"
NARROW = ("cancer_type", "clinical")
COMMON_WIDTH = 64
TOO_NARROW = "the embedding is narrower than the common width"
BASELINES = ("pca", "cancer_type", "clinical")
CONSTANT = "the score is constant within every cancer type, so no pair of one type can be ordered"


def auroc(score: NDArray[np.float64], truth: NDArray[np.bool_]) -> float | None:
    """Share of (positive, negative) pairs in order, ties half."""
    positive, negative = score[truth], score[~truth]
    if not len(positive) or not len(negative) or len(np.unique(score)) == 1:
        return None
    difference = positive[:, None] - negative[None, :]
    return float(round((difference > 0).mean() + 0.5 * (difference == 0).mean(), 6))


def harrell(score: NDArray[np.float64], time: NDArray[np.float64], event: NDArray[np.bool_]) -> float | None:
    """Share of comparable pairs in which the shorter survivor has the higher risk, ties half."""
    first = event[:, None] & (time[:, None] < time[None, :])
    if not first.any():
        return None
    difference = score[:, None] - score[None, :]
    return float(round((np.where(difference > 0, 1, np.where(difference == 0, 0.5, 0))[first]).mean(), 6))


def block(per_split: list[float | None], reason: str = "no split had both classes") -> dict[str, Any]:
    """A list of scores as the metrics JSON holds it."""
    known = [score for score in per_split if score is not None]
    return {
        "mean": round(float(np.mean(known)), 6) if known else None,
        "sd": round(float(np.std(known, ddof=1)), 6) if len(known) > 1 else None,
        "per_split": per_split,
        "reason": None if known else reason,
    }


def near(per_split: list[float | None], seed: str, shift: float = 0.0) -> list[float | None]:
    """Scores beside the given ones, the same for the same seed."""
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    noise = shift + rng.normal(0, 0.01, len(per_split))
    return [
        None if score is None else round(float(np.clip(score + step, 0, 1)), 6)
        for score, step in zip(per_split, noise, strict=True)
    ]


def common_width(encoder: str, label: str, per_split: list[float | None]) -> dict[str, Any]:
    """The block of the common width; narrow encoders have none."""
    if encoder in NARROW:
        return {"width": COMMON_WIDTH, **block([None] * SPLITS, TOO_NARROW)}
    return {"width": COMMON_WIDTH, **block(near(per_split, f"{encoder} {label} common", -0.005))}


def beside(encoder: str, label: str, per_split: list[float | None]) -> dict[str, Any]:
    """What stands beside Harrell's C of one survival label."""
    clinical = near([0.6] * SPLITS, f"{label} clinical")
    both = [
        None if c is None else round(c + (0.2 * (score - 0.5) if score is not None else 0.0), 6)
        for c, score in zip(near(clinical, f"{encoder} {label} both"), per_split, strict=True)
    ]
    added = [round(b - c, 6) for b, c in zip(both, clinical, strict=True) if b is not None and c is not None]
    return {
        "common_width": common_width(encoder, label, per_split),
        "uno_c": {**block(near(per_split, f"{encoder} {label} uno"), SAME), "tau_days": [1800.0] * SPLITS},
        "integrated_brier": block(near([0.19] * SPLITS, f"{encoder} {label} brier")),
        "clinical": block(clinical),
        "with_clinical": block(both),
        "added_value": block([*added]),
    }


def compared(
    mutation: dict[str, Any],
    survival: dict[str, Any],
    n_boot: int = 1000,
    shift: dict[str, Any] | None = None,
    biology: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What the stage `compare` says of these metrics; bootstrap intervals are invented, a little narrower."""
    params = load_params(TOP / "params.yaml")
    entries = {
        name: EncoderEntry(model=name, release=None if name in BASELINES else "untrained", enabled=True, options={})
        for name in mutation
    }
    params = params.model_copy(update={"encoders": entries})
    metrics = {name: {"mutation": mutation[name], "survival": survival[name]} for name in mutation}
    content = compare.run(metrics, {}, pd.Series(dtype=str), params, n_boot=0, shift=shift, biology=biology)
    for task in content["tasks"].values():
        for entry in task["against_reference"].values():
            if entry["low"] is not None:
                half = 0.4 * (entry["high"] - entry["low"])
                ends = {"low": round(entry["mean"] - half, 6), "high": round(entry["mean"] + half, 6)}
                entry["bootstrap"] = {**ends, "n_patients": 321, "n_undefined": 0, "reason": None}
    return {**content, "n_boot": n_boot}


def context(seed: int = 7, patients_per_type: int = 70, types: tuple[str, ...] = TYPES) -> ReportContext:
    """A whole report: 8 encoders (one absent besides), 6 genes, 14 cancer types unless told, ten splits."""
    rng = np.random.default_rng(seed)
    people = _people(rng, patients_per_type, types)
    predictions, mutation, survival = {}, {}, {}
    for encoder, strength in STRENGTH.items():
        predictions[encoder], mutation[encoder], survival[encoder] = _encoder(rng, encoder, strength, people)
    samples = pd.DataFrame(
        {
            "sample_id": people["patient_id"] + "-01",
            "patient_id": people["patient_id"],
            "cancer_type": people["cancer_type"],
            "for_probing": True,
            "hypermutated": people["hypermutated"],
        }
    )
    summary = summarise(mutation, survival)
    measured = [name for name in STRENGTH if name not in NARROW]
    shift = {
        name: fakes_measures.shift(name, summary[name]["mutation_within_type"], untrained=name not in BASELINES)
        for name in measured
    }
    biology = {name: fakes_measures.biology(name, untrained=name not in BASELINES) for name in measured}
    cards = _cards()
    shift["scbert"] = fakes_measures.shift("scbert", untrained=False, absent=cards["scbert"]["absent"])
    biology["scbert"] = fakes_measures.biology("scbert", untrained=False, absent=cards["scbert"]["absent"])
    return ReportContext(
        summary=summary,
        mutation=mutation,
        survival=survival,
        cards=cards,
        flow=_flow(),
        provenance={
            "source": "simulated",
            "expression": "xena_toil",
            "files": {
                "tcga_RSEM_gene_tpm.gz": {"sha256": "3f" * 32, "bytes": 4123456, "url": None},
                "mc3.v0.2.8.PUBLIC.maf.gz": {"sha256": "a1" * 32, "bytes": 512345, "url": None},
                "TCGA-CDR-SupplementalTableS1.xlsx": {"sha256": "77" * 32, "bytes": 99123, "url": None},
            },
            "cohort_hash": "09" * 32,
        },
        simulated=True,
        planted=_planted(mutation, survival),
        predictions=predictions,
        samples=samples,
        params=load_params(TOP / "params.yaml").model_dump(mode="json", exclude={"embed", "encoders", "fetch"}),
        version="0.1.0",
        compare=compared(mutation, survival, shift=shift, biology=biology),
        shift=shift,
        biology=biology,
    )


def _people(rng: np.random.Generator, count: int, types: tuple[str, ...]) -> pd.DataFrame:
    parts = []
    for position, name in enumerate(types):
        n = count + int(rng.integers(0, count))
        program = rng.normal(size=(n, len(GENES)))
        base = rng.normal(-1.6, 1.2, size=len(GENES))
        risk = rng.normal(size=n)
        time = rng.exponential(900 * np.exp(-0.9 * risk)) + 5
        limit = rng.uniform(200, 3000, size=n)
        part = pd.DataFrame(
            {
                "patient_id": [f"TCGA-{position:02d}-{row:04d}" for row in range(n)],
                "group": name,
                "cancer_type": rng.choice(MERGED.get(name, (name,)), size=n),
                "risk": risk,
                "time": np.minimum(time, limit),
                "event": time <= limit,
                "hypermutated": rng.random(n) < 0.04,
            }
        )
        for column, gene in enumerate(GENES):
            part[f"{gene}_program"] = program[:, column]
            part[f"{gene}_type"] = base[column]
            slope = SLOPES[gene]
            part[gene] = rng.random(n) < 1 / (1 + np.exp(-(base[column] + slope * program[:, column])))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _encoder(
    rng: np.random.Generator, encoder: str, strength: tuple[float, float, float], people: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, Any], dict[str, Any]]:
    inside, between, prognosis = strength
    rows: list[pd.DataFrame] = []
    labels = {}
    cohorts = {"pan_cancer": (people, GENES)}
    for cohort, genes in PAIRS.items():
        members = ("KIRC", "KIRP") if cohort == "RCC" else (cohort,)
        cohorts[cohort] = (people[people["cancer_type"].isin(members)], genes)
    for cohort, (members, genes) in cohorts.items():
        for gene in genes:
            tests = _tests(rng, members)
            scores = [
                between * part[f"{gene}_type"].to_numpy()
                + inside * part[f"{gene}_program"].to_numpy()
                + (0.0 if encoder == "cancer_type" else rng.normal(0, 0.6, len(part)))
                for part in tests
            ]
            labels[f"{cohort}/{gene}"] = _label(encoder, cohort, gene, members, tests, scores)
            rows.append(_rows("mutation", f"{cohort}/{gene}", tests, scores, gene))
    outcome = {}
    for name in people["group"].unique():
        members = people[people["group"] == name]
        for endpoint in ("OS", "PFI"):
            tests = _tests(rng, members)
            noise = 0.0 if encoder == "cancer_type" else 0.5
            scores = [prognosis * p["risk"].to_numpy() + rng.normal(0, noise, len(p)) for p in tests]
            per_split = [
                harrell(score, p["time"].to_numpy(), p["event"].to_numpy()) if len(np.unique(score)) > 1 else None
                for p, score in zip(tests, scores, strict=True)
            ]
            edge = int(rng.integers(0, 3))
            outcome[f"{name}/{endpoint}"] = {
                **{"cohort": name, "endpoint": endpoint, "n": len(members), "events": int(members["event"].sum())},
                **block(per_split, SAME),
                **{"reasons": {}, "penalty": [0.1] * SPLITS, "grid_edge_hits": edge},
                "advice": "left truncation: time runs from first diagnosis" if name == "SKCM" else None,
                **beside(encoder, f"{name}/{endpoint}", per_split),
            }
            if endpoint == "OS":
                rows.append(_rows("survival", f"{name}/OS", tests, scores))
    if encoder == "clinical":
        reason = "fewer than 20 patients have age, sex and stage"
        outcome["PAAD/OS"].update(block([None] * SPLITS, reason))
    overall = {}
    for endpoint in ("OS", "PFI"):
        means = {row["cohort"]: row["mean"] for row in outcome.values() if row["endpoint"] == endpoint}
        known = [name for name, mean in means.items() if mean is not None]
        overall[endpoint] = {
            "mean": round(float(np.mean([means[name] for name in known])), 6) if known else None,
            "types": known,
            "undefined": [name for name in means if name not in known],
        }
    shared = {
        "encoder": encoder,
        "simulated": True,
        "common_width": COMMON_WIDTH,
        "untrained": encoder not in BASELINES,
        "absent": None,
    }
    mutation = {**shared, "task": "mutation", "metric": "auroc", "width": 128, "labels": labels}
    survival = {**shared, "task": "survival", "metric": "c_index", "labels": outcome, "overall": overall}
    return pd.concat(rows, ignore_index=True), mutation, survival


def _tests(rng: np.random.Generator, members: pd.DataFrame) -> list[pd.DataFrame]:
    size = max(2, len(members) // 5)
    return [members.iloc[np.sort(rng.permutation(len(members))[:size])] for _ in range(SPLITS)]


def _label(
    encoder: str, cohort: str, gene: str, members: pd.DataFrame, tests: list[pd.DataFrame], scores: list[Any]
) -> dict[str, Any]:
    truths = [part[gene].to_numpy(bool) for part in tests]
    pairs = list(zip(scores, truths, strict=True))
    label: dict[str, Any] = {
        **{"cohort": cohort, "gene": gene, "kind": "nonsilent", "n": len(members)},
        "positives": int(members[gene].sum()),
        **block([auroc(score, truth) for score, truth in pairs], SAME),
        **{"reasons": {}, "penalty": [0.01] * SPLITS, "grid_edge_hits": 1 if gene == "EGFR" else 0},
        "average_precision": block([round(0.3 + 0.4 * float(truth.mean()), 6) for _, truth in pairs]),
        "without_hypermutated": block([auroc(score * 0.98, truth) for score, truth in pairs]),
    }
    if cohort in ("pan_cancer", "RCC"):
        within = []
        for part, score, truth in zip(tests, scores, truths, strict=True):
            groups = part["group"].to_numpy()
            names, place = np.unique(groups, return_inverse=True)
            centred = score - np.array([np.mean(score[groups == name]) for name in names])[place]
            within.append(auroc(centred, truth))
        constant = encoder == "cancer_type"
        label["within_type"] = {
            **(block([None] * SPLITS, CONSTANT) if constant else block(within)),
            **{"pairs": 1234, "n": len(members), "macro_mean": None if constant else 0.61},
        }
    if encoder not in NARROW or "within_type" in label:
        label["common_width"] = common_width(encoder, f"{cohort}/{gene}", label["per_split"])
    if "within_type" in label:
        within = label["within_type"]["per_split"]
        label["common_width"]["within_type"] = common_width(encoder, f"{cohort}/{gene} within", within)
    if cohort == "pan_cancer":
        label["informative_types"] = {**block([auroc(*pair) for pair in pairs]), "types": ["BRCA", "LUAD"]}
    return label


def _rows(
    task: str, label: str, tests: list[pd.DataFrame], scores: list[NDArray[np.float64]], gene: str | None = None
) -> pd.DataFrame:
    part = pd.concat(tests)
    nothing = [None] * len(part)
    return pd.DataFrame(
        {
            "task": task,
            "label": label,
            "split": np.repeat(np.arange(len(tests), dtype=np.int16), [len(one) for one in tests]),
            "patient_id": part["patient_id"].to_numpy(),
            "score": np.concatenate(scores),
            "truth": pd.array(part[gene].to_numpy() if gene else nothing, dtype="boolean"),
            "time": np.full(len(part), np.nan) if gene else part["time"].to_numpy(),
            "event": pd.array(nothing if gene else part["event"].to_numpy(), dtype="boolean"),
        }
    )


def _cards() -> dict[str, dict[str, Any]]:
    seen = {
        "cellfm": ("CellFM", "100 M human cells, single-cell RNA", "CC-BY-NC-ND-4.0", 0.98, False),
        "scfoundation": (
            "scFoundation",
            "50 M human cells, single-cell RNA",
            "model licence, no passing on",
            0.99,
            False,
        ),
        "bulkformer": ("BulkFormer", "522 k bulk samples (GEO, ARCHS4)", "MIT", 0.97, True),
        "geneformer_v2": ("Geneformer V2", "104 M human cells without malignant ones", "Apache-2.0", 0.96, False),
        "scgpt": ("scGPT whole-human", "33 M normal human cells", "MIT", 0.93, False),
        "pca": ("PCA of log-TPM", "nothing; fitted on each training part", "none", None, False),
        "cancer_type": ("Cancer type alone", "nothing", "none", None, False),
        "clinical": ("Age, sex and stage", "nothing", "none", None, False),
    }
    cards: dict[str, dict[str, Any]] = {}
    for name, (title, pretraining, licence, coverage, tcga) in seen.items():
        baseline = name in BASELINES
        cards[name] = {
            **{"title": title, "kind": "baseline" if baseline else "foundation", "pooling": "published"},
            **{"width": 128, "untrained": not baseline, "pretraining": pretraining, "licence": licence},
            **{"coverage": coverage, "absent": None, "saw_tcga": tcga},
        }
    cards["bulkformer"]["priors"] = "gene graph of TCGA co-expression (G_tcga.pt)"
    cards["scbert"] = {
        **{"title": "scBERT", "kind": "foundation", "pooling": "mean (fallback)", "width": 200, "untrained": False},
        **{"pretraining": "PanglaoDB", "licence": "GPL-3.0", "coverage": None, "saw_tcga": False},
        "absent": "release panglao_pretrain is not in models/scbert; run `bulkprobe fetch scbert`",
    }
    return cards


def _flow() -> list[dict[str, Any]]:
    rules = [
        ("samples in the expression matrix", 2105, 0, ""),
        ("solid normal tissue (11)", 2105, 214, "kept for embedding"),
        ("one sample per patient", 1891, 122, "lowest type, vial A first"),
        ("redacted by TCGA-CDR", 1769, 7, ""),
        ("excluded by pathology review", 1762, 31, ""),
    ]
    return [
        {"rule": rule, "before": before, "dropped": dropped, "after": before - dropped, "note": note}
        for rule, before, dropped, note in rules
    ]


def _planted(mutation: dict[str, Any], survival: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for gene, strength, true in zip(
        GENES, ("strong", "strong", "strong", "weak", "weak", "none"), (0.86, 0.83, 0.83, 0.68, 0.66, 0.5), strict=True
    ):
        label = f"pan_cancer/{gene}"
        scores = {name: metrics["labels"][label]["within_type"]["mean"] for name, metrics in mutation.items()}
        positives = mutation["pca"]["labels"][label]["positives"]
        rows.append(
            {
                **{"task": "mutation", "label": label, "measure": "within-type AUROC", "strength": strength},
                **{"true": true, "positives": positives, "scores": scores},
            }
        )
    for name, strength, true in (("KIRC", "strong", 0.78), ("LUAD", "weak", 0.62), ("PAAD", "none", 0.5)):
        label = f"{name}/OS"
        scores = {encoder: metrics["labels"][label]["mean"] for encoder, metrics in survival.items()}
        events = survival["pca"]["labels"][label]["events"]
        rows.append(
            {
                **{"task": "survival", "label": label, "measure": "C-index", "strength": strength},
                **{"true": true, "positives": events, "scores": scores},
            }
        )
    return rows
