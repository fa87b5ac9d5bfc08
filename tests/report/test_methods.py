"""The methods paragraph follows the parameters, and its references are complete, cited and readable as BibTeX."""

from __future__ import annotations

import copy
import dataclasses
import re
from typing import Any

import pytest

from bulkprobe.encoders import MODELS as ENCODERS
from bulkprobe.encoders import get_encoder
from bulkprobe.foreign import in_markdown
from bulkprobe.report import methods
from bulkprobe.report.context import ReportContext
from bulkprobe.report.methods import bibtex, citation, methods_text, references

RULES: dict[str, Any] = {
    **{"mutation_filters": ["PASS", "wga"], "hypermutation": "mad", "hypermutation_z": None, "zero_time": "drop"},
    **{"blood_types": ["LAML"], "metastasis_types": ["SKCM", "UVM"]},
    **{"drop_redacted": True, "drop_do_not_use": True, "drop_pathology_excluded": False},
}
# Every way of running the study that says something else, and what then is said or cited, and what no longer is.
CHANGES: list[tuple[dict[str, Any], str, str]] = [
    ({"splits.n_splits": 7}, "split 7 times", "split 10 times"),
    ({"splits.test_fraction": 0.25}, "75% training and 25% test", "80% training"),
    ({"splits.scheme": "site"}, "no tissue source site on both sides", ""),
    ({"splits.inner_folds": 5}, "over 5 folds", "over 3 folds"),
    ({"base.seed": 11}, "(seed 11)", "20260421"),
    ({"probe_mutation.genes": ["TP53"]}, "non-silent mutations of TP53, hotspots", "BAP1, hotspots"),
    ({"probe_mutation.min_positives": 33}, "at least 33 patients", "at least 10 patients"),
    ({"probe_mutation.penalties": [2.0, 0.5]}, "(2 values from 2 to 0.5)", "7 values"),
    ({"probe_mutation.selection": "one_standard_error"}, "within one standard error", ""),
    ({"probe_mutation.common_width": None, "probe_survival.common_width": None}, "", "principal components, fitted"),
    ({"probe_survival.endpoints": ["DSS"]}, "disease-specific survival", "progression-free"),
    ({"probe_survival.ties": "breslow"}, "Breslow's [@breslow1974] handling", "[@efron1977]"),
    ({"probe_survival.l1_ratio": 0.5}, "elastic net (L1 share 0.5) [@zou2005; @bertrand2022]", "ties and an L2"),
    ({"compare.reference": "hvg"}, "compared with hvg", "compared with pca"),
    ({"compare.n_boot": 2000}, "2,000 draws", "1,000 draws"),
    ({"compare.level": 0.9}, "90% intervals", "95% intervals"),
    ({"shift.reference": "atlas.h5ad"}, "single cells of atlas.h5ad", "pseudo-cells"),
    ({"shift.encoders": {}}, "", "[@gretton2012]"),
    ({"gene_sets.collection": "hallmark"}, "[@liberzon2011; @liberzon2015]", "modules planted"),
    ({"gene_sets.collection": "reactome"}, "[@milacic2024]", "modules planted"),
    ({"gene_sets.collection": "go"}, "[@ashburner2000]", "modules planted"),
    ({"gene_sets.collection": "mine.gmt"}, "the gene sets of mine.gmt", "modules planted"),
    ({"biology.random_sets": 77}, "77 shufflings", "100 shufflings"),
    ({"biology.encoders": {}}, "", "[@mantel1967]"),
    ({"cohort.source": "tcga"}, "from UCSC Xena [@goldman2020]", "The cohort was simulated"),
    ({"cohort.source": "tcga", "cohort.tcga.expression": "gdc_star"}, "STAR counts", "planted effects"),
    (
        {"cohort.source": "files", "cohort.files": {"expression_scale": "zscore"}},
        "the authors' own (",
        "FILTER tags",
    ),
]


@pytest.fixture(name="context", scope="module")
def fixture_context(report: ReportContext) -> ReportContext:
    scale = {"X": "counts", "genes": 2987}
    return dataclasses.replace(report, provenance={**report.provenance, "scale": scale, "rules": RULES})


def changed(context: ReportContext, keys: dict[str, Any]) -> ReportContext:
    params = copy.deepcopy(dict(context.params))
    for key, value in keys.items():
        *sections, last = key.split(".")
        place = params
        for section in sections:
            place = place[section]
        assert last in place
        place[last] = value
    return dataclasses.replace(context, params=params)


def cited(text: str) -> list[str]:
    return re.findall(r"@([A-Za-z0-9]+)", " ".join(re.findall(r"\[@[^\]]+\]", text)))


def every_context(context: ReportContext) -> list[ReportContext]:
    return [context, *(changed(context, keys) for keys, _, _ in CHANGES)]


@pytest.mark.parametrize(("keys", "now", "before"), CHANGES)
def test_a_changed_parameter_changes_its_sentence(
    context: ReportContext, keys: dict[str, Any], now: str, before: str
) -> None:
    first, second = methods_text(context), methods_text(changed(context, keys))
    assert first != second
    assert now in second
    assert not now or now not in first
    assert not before or (before in first and before not in second)


def test_every_citation_has_its_reference_and_every_reference_is_cited(context: ReportContext) -> None:
    for one in every_context(context):
        keys = cited(methods_text(one))
        assert [reference.key for reference in references(one)] == list(dict.fromkeys(keys))
    texts = [methods_text(one) for one in every_context(context)]
    texts += [citation(model, release) for model in ENCODERS for release in ("V1", "V2")]
    way = dataclasses.replace(context, provenance={"rules": {**RULES, "hypermutation": "sd"}})
    assert {key for text in [*texts, methods_text(way)] for key in cited(text)} == set(methods._library())


def test_rules_of_the_cohort_are_said(context: ReportContext) -> None:
    text = methods_text(context)
    patients, types = context.samples["patient_id"].nunique(), context.samples["cancer_type"].nunique()
    assert f"({patients:,} patients of {types} cancer types with 2,987 measured genes, planted effects)" in text
    assert "(type 01, 03 for LAML, 06, where there is no 01, for SKCM, UVM)" in text
    assert "Samples redacted or marked Do_not_use were dropped." in text
    assert "all among PASS and wga" in text
    assert "median + 3.5 × 1.4826 MAD" in text
    other = {**RULES, "hypermutation": "sd", "zero_time": 1.0}
    text = methods_text(dataclasses.replace(context, provenance={"rules": other}))
    assert "above 5 standard deviations over the cohort [@way2018]" in text
    assert "set to 1 days" in text


def test_untrained_and_absent_models_are_said_plainly(context: ReportContext) -> None:
    text = methods_text(context)
    assert "All of them ran on untrained weights, so their numbers say nothing about the released models." in text
    assert "its numbers say nothing about real tumours" in text
    assert "Not run: scbert." in text
    assert "[@yang2022]" not in text  # its paper is not cited for a model that did not run
    cards = {name: {**card, "untrained": name == "scgpt", "release": "R1"} for name, card in context.cards.items()}
    text = methods_text(dataclasses.replace(context, cards=cards))
    assert "scgpt ran on untrained weights" in text
    assert "scfoundation (scFoundation [@hao2024]), release R1, 128 dimensions" in text


def test_every_model_of_ours_has_its_paper() -> None:
    for name in ENCODERS:
        card = get_encoder(name).card
        if card.kind != "foundation":
            assert citation(name, "") == ""
            continue
        for key in cited(citation(name, "")):
            doi = re.search(r"doi = \{(.*)\}", methods._library()[key])
            assert doi is not None
            assert doi[1] in card.paper
    assert citation("geneformer", "V1-10M") == "[@theodoris2023]"
    assert citation("geneformer", "V2-104M") == "[@theodoris2023; @chen2024]"


def test_a_model_without_a_reference_is_given_with_its_paper(context: ReportContext) -> None:
    card = {**context.cards["scgpt"], "title": "Mine", "model": "mine", "paper": "Me 2027", "options": {"layer": -2}}
    text = methods_text(dataclasses.replace(context, cards={"mine": card}))
    assert "mine (Mine Me 2027), untrained weights" in text
    assert "layer=-2" in text


def test_the_pooling_that_ran_is_said(context: ReportContext) -> None:
    def said(described: str, **options: Any) -> str:
        card = {**context.cards["scgpt"], "pooling": described, "options": options}
        return methods_text(dataclasses.replace(context, cards={"scgpt": card}))

    assert "vector: the <cls> token." in said("the <cls> token; mean and max also")
    assert "vector: mean of states." in said("published: none; mean of states")
    assert "128 dimensions, pooling=max." in said("the <cls> token; mean and max also", pooling="max")


def test_names_that_look_like_citations_cite_nothing(context: ReportContext) -> None:
    cards = {"[@nobody2000]": context.cards["scgpt"]}
    odd = dataclasses.replace(context, cards=cards)
    assert "nobody2000" not in {reference.key for reference in references(odd)}


def test_toil_is_cited_for_its_matrices_only(context: ReportContext) -> None:
    star = changed(context, {"cohort.source": "tcga", "cohort.tcga.expression": "gdc_star"})
    toil = changed(context, {"cohort.source": "tcga"})
    assert "vivian2017" in cited(methods_text(toil))
    assert "vivian2017" not in cited(methods_text(star))
    assert {"grossman2016", "ellrott2018", "liu2018"} <= set(cited(methods_text(star)))


def test_relations_are_said_with_the_number_of_encoders(context: ReportContext) -> None:
    compare = {**(context.compare or {}), "relations": {"n_encoders": 7, "tests": [{"predictor": "parameters"}]}}
    assert "Over 7 encoders, these scores" in methods_text(dataclasses.replace(context, compare=compare))
    without = {key: value for key, value in compare.items() if key != "relations"}
    assert "these scores" not in methods_text(dataclasses.replace(context, compare=without))


def test_without_comparison_nothing_is_said_of_it(context: ReportContext) -> None:
    assert "[@nadeau2003]" not in methods_text(dataclasses.replace(context, compare=None))


def parse_bibtex(text: str) -> dict[str, dict[str, str]]:
    """Entries by key; anything that is not an entry of `field = {value}` lines with balanced braces fails."""
    found = {}
    for block in text.split("\n\n"):
        head, *lines, last = block.strip().split("\n")
        start = re.fullmatch(r"@(article|inproceedings|misc)\{([a-z0-9]+),", head)
        assert start is not None, head
        assert last == "}"
        fields = {}
        for line in lines:
            field = re.fullmatch(r"  ([a-z]+) = \{(.*)\},", line)
            assert field is not None, line
            assert field[1] not in fields
            depth = 0
            for character in field[2]:
                depth += {"{": 1, "}": -1}.get(character, 0)
                assert depth >= 0, line
            assert depth == 0, line
            fields[field[1]] = field[2]
        assert start[2] not in found
        found[start[2]] = {"type": start[1], **fields}
    return found


def test_the_library_is_bibtex() -> None:
    entries = parse_bibtex(bibtex([methods.Reference(*item) for item in methods._library().items()]))
    assert len(entries) > 45
    dois = [entry["doi"] for entry in entries.values() if "doi" in entry]
    assert len(dois) == len(set(dois))
    needed = {"article": "journal", "inproceedings": "booktitle", "misc": "howpublished"}
    for key, entry in entries.items():
        assert {"author", "title", "year", needed[entry["type"]]} <= set(entry), key
        assert re.fullmatch(r"(19|20)\d\d", entry["year"])
        assert key in ("dvc", "zarr") or key.endswith(entry["year"])
        for name, value in entry.items():
            assert value.isascii(), f"{key}: {name}"
            assert not re.search(r"(?<!\\)[&%#_$~^]", value), f"{key}: {name} has a character that TeX reads"
        assert re.fullmatch(r"10\.\d{4,5}/\S+", entry.get("doi", "10.1000/none"))
        assert re.fullmatch(r"[A-Z]?\d+(--[A-Z]?\d+)?", entry.get("pages", "1"))


def test_the_page_offers_both_for_copying(page: str, report: ReportContext) -> None:
    assert page.count('<pre id="methods"') == page.count('<pre id="bibtex"') == 1
    assert 'data-copy="#methods"' in page
    assert 'data-copy="#bibtex"' in page
    shown = page[page.index('<pre id="bibtex"') :]
    assert shown.index("@inproceedings{kim2026,") < shown.index("</pre>")
    assert methods_text(report).count("\n\n") >= 7


def test_names_of_encoders_do_nothing_in_markdown_and_cite_nothing(context: ReportContext) -> None:
    hostile = "<img src=x onerror=alert(1)>[@nobody2020]@misc{x}"
    cards = {hostile: next(iter(context.cards.values()))}
    changed = dataclasses.replace(context, cards=cards)
    written = in_markdown(methods_text(changed))
    assert "&lt;img src=x" in written
    assert "<" not in written
    assert "nobody2020" not in bibtex(references(changed))
    assert "@misc{x}" not in bibtex(references(changed))
