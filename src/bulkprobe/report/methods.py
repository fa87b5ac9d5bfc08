"""The methods paragraph of a paper and its references, generated from what was actually run.

Texts cite by [@key]; the keys are those of `references.bib`, and only what a text cites is listed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from bulkprobe.report.context import ReportContext
from bulkprobe.report.methods_measured import biology, relations, shift
from bulkprobe.statistics import CALIBRATED_MULTIPLE

CITED = re.compile(r"@([A-Za-z0-9]+)")
GROUP = re.compile(r"\[@[^\]]+\]")
# Models with a reference of their own; another encoder is given with the paper that its card names.
MODELS = {
    "cellfm": "zeng2025",
    "scbert": "yang2022",
    "scfoundation": "hao2024",
    "scgpt": "cui2024",
    "sclong": "bai2026",
    "bulkformer": "kang2026",
}
ENDPOINTS = {"OS": "overall survival", "PFI": "progression-free interval"}
ENDPOINTS |= {"DSS": "disease-specific survival", "DFI": "disease-free interval"}
CODES = {"blood_types": "03", "metastasis_types": "06, where there is no 01,"}  # rule -> sample type
Z = {"mad": 3.5, "sd": 5}  # where the rules give none


@dataclass(frozen=True)
class Reference:
    """One entry of `references.bib`: its key and its BibTeX."""

    key: str
    entry: str


def methods_text(context: ReportContext) -> str:
    """Return plain paragraphs, ready to paste; a section whose parameters are absent is left out."""
    params = context.params
    paragraphs = [
        _cohort(context),
        _encoders(context),
        _labels(params),
        _probes(params),
        _scores(params),
        _comparison(context),
        shift(params),
        biology(params),
        relations(context.compare),
        _software(context),
    ]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def references(context: ReportContext) -> list[Reference]:
    """Return what the methods text cites, in the order of its first citation."""
    groups = GROUP.findall(methods_text(context))
    keys = dict.fromkeys(key for group in groups for key in CITED.findall(group))
    return [Reference(key, _library()[key]) for key in keys if key in _library()]  # names may hold anything


def bibtex(found: Sequence[Reference]) -> str:
    """Return the BibTeX of references, one entry after the other."""
    return "\n\n".join(reference.entry for reference in found)


@cache
def _library() -> Mapping[str, str]:
    """Every entry by its key."""
    text = files("bulkprobe.report").joinpath("references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@.*?^\}", text, re.S | re.M)
    return {entry[entry.index("{") + 1 : entry.index(",")]: entry for entry in entries}


def listed(items: Sequence[object], word: str = "and") -> str:
    """Join with commas and a last "and"."""
    texts = [str(item) for item in items]
    return f" {word} ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _cohort(context: ReportContext) -> str:
    cohort, samples = context.params["cohort"], context.samples
    n, types = samples["patient_id"].nunique(), samples["cancer_type"].nunique()
    size = f"{n:,} patients of {types} cancer type{'s' * (types != 1)}"
    genes = context.provenance.get("scale", {}).get("genes")
    size += f" with {genes:,} measured genes" if genes else ""
    source = cohort["source"]
    said = "Frozen encoders were compared by linear probes on bulk RNA-seq of tumours, as Kim et al. did [@kim2026]. "
    if source == "simulated":
        said += f"The cohort was simulated ({size}, planted effects): its numbers say nothing about real tumours."
    elif source == "tcga":
        expression = (
            "RSEM estimates of the Toil recompute [@vivian2017] from UCSC Xena [@goldman2020], genes of GENCODE 23"
            if cohort["tcga"]["expression"] == "xena_toil"
            else "STAR counts of the Genomic Data Commons, genes of GENCODE 36"
        )
        said += (
            f"The cohort was TCGA's Pan-Cancer Atlas [@hoadley2018] ({size}). Expression: {expression} "
            "[@frankish2021]. Mutations were the MC3 calls [@ellrott2018] and outcomes those of TCGA-CDR [@liu2018], "
            "both from the Genomic Data Commons [@grossman2016]."
        )
    else:
        scale = cohort.get("files", {}).get("expression_scale")
        said += f"The cohort was the authors' own ({size}{f'; expression given as {scale}' if scale else ''})."
    return f"{said} {_rules(context.provenance.get('rules') or {}, source)}".strip()


def _rules(rules: Mapping[str, Any], source: str) -> str:
    """Which samples, calls and times count; rules that only official files know are left out for others."""
    if not rules:
        return ""
    official = source != "files"
    types = [f"{code} for {', '.join(rules[key])}" for key, code in CODES.items() if rules.get(key)]
    primary = f"type {', '.join(['01', *types])}"
    parts = [f"One primary tumour a patient was probed ({primary}); normals and recurrences were not."]
    dropped = {
        "drop_redacted": "redacted",
        "drop_do_not_use": "marked Do_not_use",
        "drop_pathology_excluded": "excluded by pathology review",
    }
    gone = [text for key, text in dropped.items() if rules.get(key)]
    if official and gone:
        parts.append(f"Samples {listed(gone, 'or')} were dropped.")
    if official:
        filters = listed(rules["mutation_filters"])
        parts.append(
            f"A gene counted as mutated with a non-silent call whose FILTER tags are all among {filters}; patients "
            "without any such call of any class were not profiled and left out."
        )
    z = rules.get("hypermutation_z") or Z[rules["hypermutation"]]
    parts.append(
        f"Hypermutated: log10 burden above median + {z:g} × 1.4826 MAD of the cancer type."
        if rules["hypermutation"] == "mad"
        else f"Hypermutated: log10 burden above {z:g} standard deviations over the cohort [@way2018]."
    )
    zero = rules["zero_time"]
    parts.append(f"Follow-up of zero days was {'dropped' if zero == 'drop' else f'set to {zero:g} days'}.")
    return " ".join(parts)


def _encoders(context: ReportContext) -> str:
    cards = {name: card for name, card in context.cards.items() if not card.get("absent")}
    models = {name: card for name, card in cards.items() if card["kind"] == "foundation"}
    parts = []
    if models:
        parts.append("Foundation models were read with their own vocabulary, normalisation and tokens:")
        parts.append("; ".join(_encoder(name, card) for name, card in models.items()) + ".")
    untrained = [name for name, card in models.items() if card.get("untrained")]
    if untrained:
        who = "All of them" if len(untrained) == len(models) else listed(untrained)
        parts.append(f"{who} ran on untrained weights, so their numbers say nothing about the released models.")
    baselines = [_baseline(name, card) for name, card in cards.items() if card["kind"] == "baseline"]
    if baselines:
        parts.append(f"Baselines: {'; '.join(baselines)}.")
    absent = [name for name, card in context.cards.items() if card.get("absent")]
    parts += [f"Not run: {listed(absent)}."] if absent else []
    return " ".join(parts)


def _baseline(name: str, card: Mapping[str, Any]) -> str:
    return f"{name} ({', '.join([card['title'], *(f'{k}={v}' for k, v in (card.get('options') or {}).items())])})"


def _encoder(name: str, card: Mapping[str, Any]) -> str:
    keys = citation(str(card.get("model") or name), str(card.get("release") or ""))
    called = f"{name} ({card['title']} {keys or card.get('paper') or ''}".rstrip()
    release = "untrained weights" if card.get("untrained") else f"release {card.get('release')}"
    release += ", tensors drawn again" if card.get("twin") else ""
    facts = [release, f"{card['width']} dimensions" if card.get("width") else ""]
    options = card.get("options") or {}
    if options.get("pooling", "published") == "published":
        # Cards list other poolings after a semicolon; a model without a published one begins by saying so.
        pooled = [part for part in str(card["pooling"]).split("; ") if part != "published: none"]
        facts.append(f"vector: {pooled[0]}")
    facts += [f"{key}={value}" for key, value in options.items()]
    facts += [str(card["precision"])] if card.get("precision") else []
    return f"{called}), {', '.join(fact for fact in facts if fact)}"


def citation(model: str, release: str) -> str:
    """Return the citation of a model as run; empty where its paper stands in no list of ours."""
    if model == "geneformer":
        return "[@theodoris2023]" if release.startswith("V1") else "[@theodoris2023; @chen2024]"
    return f"[@{MODELS[model]}]" if model in MODELS else ""


def _labels(params: Mapping[str, Any]) -> str:
    splits, mutation, survival = params["splits"], params["probe_mutation"], params["probe_survival"]
    share = splits["test_fraction"]
    site = ", with no tissue source site on both sides" if splits["scheme"] == "site" else ""
    hotspots = f", hotspots of {listed(mutation['hotspot_genes'])} apart" if mutation["hotspot_genes"] else ""
    within = "; ".join(f"{listed(genes)} in {name}" for name, genes in mutation["within_type"].items())
    within = f", and of {within}" if within else ""
    endpoints = listed([ENDPOINTS[name] for name in survival["endpoints"]])
    return (
        f"Patients were split {splits['n_splits']} times at random into {1 - share:.0%} training and {share:.0%} test "
        f"patients{site}, the same for every encoder (seed {params['base']['seed']}); each split is that of "
        "200 draws which is best balanced in cancer types and labels [@morgan2012]. Mutation labels: "
        f"non-silent mutations of {listed(mutation['genes'])}{hotspots}, over all cancers{within}; "
        f"at least {mutation['min_positives']} patients of either status. Survival labels: {endpoints} in "
        f"{listed(survival['types'])}; at least {survival['min_events']} events."
    )


def _probes(params: Mapping[str, Any]) -> str:
    mutation, survival = params["probe_mutation"], params["probe_survival"]
    ties = "Efron's [@efron1977]" if survival["ties"] == "efron" else "Breslow's [@breslow1974]"
    penalty = (
        f"an elastic net (L1 share {survival['l1_ratio']:g}) [@zou2005; @bertrand2022]"
        if survival["l1_ratio"] > 0
        else "an L2 penalty"
    )
    return (
        "Features were standardised on the training part and divided by one number, so that their total variance is 1. "
        "Mutations were predicted by logistic regression with an L2 penalty "
        f"({_grid(mutation['penalties'])}), survival by Cox regression [@cox1972] with {ties} handling of ties and "
        f"{penalty} ({_grid(survival['penalties'])}). The penalty was chosen inside the training part over "
        f"{params['splits']['inner_folds']} folds: for mutations {_selection(mutation['selection'])} of the log-loss, "
        f"for survival {_selection(survival['selection'])} of the cross-validated partial likelihood [@verweij1993]."
        f"{_common(mutation['common_width'], survival['common_width'])}"
    )


def _grid(penalties: Sequence[float]) -> str:
    return (
        f"{len(penalties)} values from {max(penalties):g} to {min(penalties):g}"
        if len(penalties) > 1
        else f"{penalties[0]:g}"
    )


def _selection(rule: str) -> str:
    return "the optimum" if rule == "lowest" else "the largest penalty within one standard error of the optimum"


def _common(mutation: int | None, survival: int | None) -> str:
    widths = list(dict.fromkeys(width for width in (mutation, survival) if width))
    if not widths:
        return ""
    return f" Every encoder was probed once more at {listed(widths)} principal components, fitted in training."


def _scores(params: Mapping[str, Any]) -> str:
    return (
        "Mutation probes were scored by the area under the ROC curve (AUROC) [@hanley1982], over all patients and "
        "over pairs of patients of one cancer type (within type); survival probes by Harrell's C [@harrell1996], "
        "beside Uno's C [@uno2011] and the integrated Brier score [@graf1999] with Breslow's baseline hazard "
        "[@breslow1974], and by what C gains when the embedding joins age, sex and stage. Undefined scores were left "
        "undefined."
    )


def _comparison(context: ReportContext) -> str:
    compare = context.params.get("compare")
    if not compare or not context.compare:
        return ""
    return (
        f"Encoders were compared with {compare['reference']} by paired differences over the splits: a corrected "
        f"resampled t-test [@nadeau2003] whose factor n_test/n_train was multiplied by {CALIBRATED_MULTIPLE:g}, a "
        f"value found by simulation, with {compare['level']:.0%} intervals and Holm's correction over encoders "
        f"[@holm1979]; beside it a bootstrap of {compare['n_boot']:,} draws of test patients [@efron1979]. Average "
        "ranks over labels were compared by Friedman's test [@friedman1937] and Nemenyi's critical difference "
        "[@demsar2006]."
    )


def _software(context: ReportContext) -> str:
    torch = any(card["kind"] == "foundation" and not card.get("absent") for card in context.cards.values())
    tools = ["PyTorch [@paszke2019]"] if torch else []
    tools += ["scikit-learn [@pedregosa2011]", "lifelines [@davidsonpilon2019]"]
    tools += ["anndata [@virshup2024]", "Zarr [@zarr]"]
    return f"Everything ran in bulkprobe {context.version}, a DVC pipeline [@dvc], with {listed(tools)}."
