"""What the methods paragraph says of shift, biology and their relation to transfer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLLECTIONS = {
    "planted": "the modules planted into the simulated cohort",
    "hallmark": "MSigDB's hallmark sets [@liberzon2011; @liberzon2015]",
    "reactome": "Reactome's pathways [@milacic2024] in MSigDB [@liberzon2011]",
    "go": "Gene Ontology's biological processes [@ashburner2000] in MSigDB [@liberzon2011]",
}


def shift(params: Mapping[str, Any]) -> str:
    """How far bulk input lies from single cells; empty where it was not measured."""
    section = params.get("shift") or {}
    encoders = section.get("encoders") or {}
    if not encoders:
        return ""
    count = f"{section['samples']} tumours" if section["samples"] else "all tumours"
    cells = (
        f"single cells of {section['reference']}"
        if section["reference"]
        else f"pseudo-cells, made by thinning the cohort's own tumours to a median of {section['cell_depth']:,} counts"
    )
    parts = [
        f"Distribution shift was measured between {count} and {cells}: what enters each model, anisotropy of the "
        "embedding [@ethayarajh2019], its effective rank [@roy2007], the maximum mean discrepancy [@gretton2012], a "
        "domain classifier (AUROC) and the distance to the nearest cell."
    ]
    ladder = [name for name, entry in encoders.items() if entry["ladder"]]
    if ladder:
        depths = ", ".join(f"{depth:,}" for depth in section["depths"])
        splits = section["ladder_splits"]
        parts.append(
            f"For {', '.join(ladder)}, counts were thinned binomially to {depths} and embedded again; probes fitted at "
            f"full depth were applied to the thinned test patients of {splits} split{'s' * (splits != 1)}."
        )
    feeding = [name for name, entry in encoders.items() if entry["feeding"]]
    if feeding:
        types = ", ".join(section["feeding_types"]) if section["feeding_types"] else "all cancer types"
        parts.append(
            f"Other ways of feeding the same model ({', '.join(feeding)}; patients of {types}) were compared by "
            "cosine, centred kernel alignment [@kornblith2019], shared neighbours and scores."
        )
    return " ".join(parts)


def biology(params: Mapping[str, Any]) -> str:
    """Whether gene vectors know which genes belong together; empty where it was not measured."""
    section, sets = params.get("biology") or {}, params.get("gene_sets") or {}
    encoders = section.get("encoders") or {}
    if not encoders:
        return ""
    collection = COLLECTIONS.get(sets["collection"], f"the gene sets of {sets['collection']}")
    contextual = [name for name, entry in encoders.items() if entry["contextual"]]
    states = (
        f" and, for {', '.join(contextual)}, the states of genes inside the model, averaged over "
        f"{section['contextual_samples']} tumours"
        if contextual
        else ""
    )
    paralogs = "genes of one symbol stem" if section["paralogs"] == "symbols" else f"pairs of {section['paralogs']}"
    return (
        f"Gene vectors (the input gene embedding{states}) were scored on {collection} with {sets['least']} to "
        f"{sets['most']} measured genes: AUROC of pairs within against pairs across the border of a set, beside "
        f"{section['random_sets']} shufflings of the genes over the sets, with and without paralogs ({paralogs}); and "
        "on co-expression within cancer types of the cohort, by regression over held-out genes and by a Mantel test "
        "[@mantel1967]. Scores that knowledge built into a model makes circular are marked."
    )


def relations(compare: Mapping[str, Any] | None) -> str:
    """How these measures were related to transfer; empty where they were not."""
    found = (compare or {}).get("relations") or {}
    if not found.get("tests"):
        return ""
    return (
        f"Over {found['n_encoders']} encoders, these scores, size and pre-training were related to within-type AUROC "
        "and C-index by Spearman's correlation with permutation p-values, adjusted by Holm's method [@holm1979]."
    )
