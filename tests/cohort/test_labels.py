from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from raw_tables import dropped, write_maf

from bulkprobe.cohort.flow import Flow
from bulkprobe.cohort.labels import filter_accepted, hypermutated, is_hotspot, join_mutations, read_maf
from bulkprobe.cohort.schema import CohortRules
from bulkprobe.errors import UserError

RULES = CohortRules(genes=("KRAS", "TP53"))


def aliquot(patient: str, sample: str = "01A", plate: str = "A111") -> str:
    return f"TCGA-AA-{patient}-{sample}-11D-{plate}-08"


CALLS = [
    ("KRAS", "Missense_Mutation", aliquot("0001"), "p.G12D", "PASS"),
    ("KRAS", "Missense_Mutation", aliquot("0002"), "p.L19F", "wga,native_wga_mix"),
    ("TP53", "Silent", aliquot("0003"), "p.R175R", "PASS"),
    ("TP53", "Nonsense_Mutation", aliquot("0003"), "p.R213*", "oxog,wga"),
    ("TP53", "Nonsense_Mutation", aliquot("0004"), "p.R213*", "NonExonic"),
    ("TP53", "Splice_Site", aliquot("0005", "06A"), "", "PASS"),
    ("TP53", "Splice_Region", aliquot("0006"), "", "PASS"),
    ("TTN", "Missense_Mutation", aliquot("0001"), "p.A1B", "PASS"),
    ("TTN", "In_Frame_Del", aliquot("0007", plate="A111"), "p.A1del", "PASS"),
    ("TTN", "Frame_Shift_Ins", aliquot("0007", plate="A222"), "p.A2fs", "wga"),
    ("TP53", "Missense_Mutation", aliquot("0007", plate="A222"), "p.R175H", "PASS"),
]


def samples(*ids: str, probing: bool = True) -> pd.DataFrame:
    return pd.DataFrame(
        {"sample_id": list(ids), "patient_id": [i[:12] for i in ids], "cancer_type": "KIRC", "for_probing": probing}
    )


def test_profiled_are_all_with_an_accepted_call_of_any_class(tmp_path: Path) -> None:
    status, counted = read_maf(write_maf(tmp_path / "calls.maf.gz", CALLS, comment="#version 2.4\n"), RULES)
    # 0003 and 0006 have no non-silent accepted call and are known wild types; 0004 is unknown.
    assert list(status.profiled.index) == [
        f"TCGA-AA-000{i}-{kind}" for i, kind in ((1, "01"), (2, "01"), (3, "01"), (5, "06"), (6, "01"), (7, "01"))
    ]
    # 0007: two aliquots are united, burden is that of the larger one
    assert list(status.profiled["burden"]) == [2, 1, 0, 1, 0, 2]
    assert counted == {"rows": 11, "accepted": 9, "aliquots": 8, "aliquots_without_accepted": 1}
    mutated = status.status[status.status["mutated"]]
    assert set(zip(mutated["key"], mutated["gene"], strict=True)) == {
        ("TCGA-AA-0001-01", "KRAS"),
        ("TCGA-AA-0002-01", "KRAS"),
        ("TCGA-AA-0005-06", "TP53"),
        ("TCGA-AA-0007-01", "TP53"),
    }
    hot = status.status[status.status["hotspot"].eq(True)]
    assert list(zip(hot["key"], hot["gene"], strict=True)) == [("TCGA-AA-0001-01", "KRAS")]
    assert status.status.loc[status.status["gene"] == "TP53", "hotspot"].isna().all()


def test_blocks_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_maf(tmp_path / "calls.maf.gz", CALLS * 50)
    whole, counted = read_maf(path, RULES)
    monkeypatch.setattr("bulkprobe.cohort.labels.BLOCK_BYTES", 1000)
    blocks, counted_blocks = read_maf(path, RULES)
    pd.testing.assert_frame_equal(whole.profiled, blocks.profiled)
    pd.testing.assert_frame_equal(whole.status, blocks.status)
    assert counted == counted_blocks


def test_pass_only_loses_samples(tmp_path: Path) -> None:
    path = write_maf(tmp_path / "calls.maf.gz", CALLS)
    strict, _ = read_maf(path, CohortRules(genes=("KRAS", "TP53"), mutation_filters=("PASS",)))
    assert "TCGA-AA-0002-01" not in strict.profiled.index


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("PASS", True),
        ("wga", True),
        ("wga,native_wga_mix", True),
        ("native_wga_mix;wga", True),
        ("wga,oxog", False),
        ("", False),
    ],
)
def test_filter_rule(text: str, accepted: bool) -> None:
    assert filter_accepted(text, RULES.mutation_filters) is accepted


def test_join_is_on_patient_and_sample_type(tmp_path: Path) -> None:
    status, _ = read_maf(write_maf(tmp_path / "calls.maf.gz", CALLS), RULES)
    flow = Flow()
    table = pd.concat(
        [
            samples("TCGA-AA-0001-01", "TCGA-AA-0003-01", "TCGA-AA-0004-01", "TCGA-AA-0005-01"),
            samples("TCGA-AA-0006-01", probing=False),
        ],
        ignore_index=True,
    )
    mutations, burden = join_mutations(status, table, RULES, flow)
    # 0004 was not profiled; 0005 only as a metastasis, which says nothing of the primary.
    assert sorted(set(mutations["patient_id"])) == ["TCGA-AA-0001", "TCGA-AA-0003"]
    assert list(mutations["gene"]) == ["KRAS", "KRAS", "TP53", "TP53"]
    assert list(mutations["mutated"]) == [True, False, False, False]
    assert mutations["hotspot"].tolist()[:2] == [True, False]
    assert mutations["hotspot"].isna().tolist() == [False, False, True, True]
    assert dropped(flow, "has expression") == 3
    assert dropped(flow, "counts for its patient") == 1
    assert dropped(flow, "not wild type") == 2
    np.testing.assert_allclose(burden.to_numpy(), [np.log10(3), 0, np.nan, np.nan, 0])


@pytest.mark.parametrize(
    ("gene", "kind", "change", "expected"),
    [
        ("KRAS", "Missense_Mutation", "p.G12D", True),
        ("KRAS", "Missense_Mutation", "p.A146T", True),
        ("KRAS", "Missense_Mutation", "p.K117N", True),
        ("KRAS", "Missense_Mutation", "p.G120D", False),
        ("KRAS", "Nonsense_Mutation", "p.G12*", False),
        ("EGFR", "Missense_Mutation", "p.L858R", True),
        ("EGFR", "Missense_Mutation", "p.L858M", False),
        ("EGFR", "Missense_Mutation", "p.G719S", True),
        ("EGFR", "Missense_Mutation", "p.T790M", True),
        ("EGFR", "Missense_Mutation", "p.S768I", True),
        ("EGFR", "Missense_Mutation", "p.A289V", False),
        ("EGFR", "In_Frame_Del", "p.E746_A750del", True),
        ("EGFR", "In_Frame_Del", "p.L747_A750delinsP", True),
        ("EGFR", "In_Frame_Del", "p.E690_K700del", False),
        ("EGFR", "Frame_Shift_Del", "p.E746fs", False),
        ("EGFR", "In_Frame_Ins", "p.D770_N771insSVD", True),
        ("EGFR", "In_Frame_Ins", "p.A767_V769dup", True),
        ("EGFR", "In_Frame_Ins", "p.K745_E746insIPVAIK", False),
        ("PIK3CA", "Missense_Mutation", "p.E545K", True),
        ("PIK3CA", "Missense_Mutation", "p.H1047R", True),
        ("PIK3CA", "Missense_Mutation", "p.E39K", False),
        ("TP53", "Missense_Mutation", "p.R175H", False),
        ("KRAS", "Missense_Mutation", "", False),
        ("KRAS", "Missense_Mutation", None, False),
    ],
)
def test_hotspots(gene: str, kind: str, change: str | None, expected: bool) -> None:
    assert is_hotspot(gene, kind, change) is expected


def burdens(values: list[float], kinds: list[str] | None = None) -> pd.DataFrame:
    return pd.DataFrame(
        {"log10_mutation_burden": values, "cancer_type": kinds or ["COAD"] * len(values), "for_probing": True}
    )


SD = CohortRules(hypermutation="sd")


def test_hypermutation_over_the_whole_cohort() -> None:
    table = burdens([1.4, 1.5, 1.6, 1.7] * 5 + [3.9, np.nan])
    flow = Flow()
    flags = hypermutated(table, SD, flow)
    assert 1.7 < 5 * table["log10_mutation_burden"].std() < 3.9
    assert flags.tolist()[:21] == [False] * 20 + [True]
    assert flags.isna().tolist() == [False] * 21 + [True]
    assert "1 of 21 patients flagged" in flow.notes[0]


def test_hypermutation_rule_that_does_not_fit() -> None:
    flow = Flow()
    assert hypermutated(burdens([1.4, 1.5, 1.6, 1.7]), SD, flow).isna().all()
    assert "would flag 100% of the patients: it does not fit" in flow.notes[0]
    assert hypermutated(burdens([np.nan, 1.0]), SD, flow).isna().all()


def test_hypermutation_by_type() -> None:
    quiet, loud = [1.0, 1.1, 1.2, 1.1] * 5 + [2.5], [2.4, 2.5, 2.6, 2.5] * 5
    small = [1.0, 1.0, 9.0]  # judged by the whole cohort
    table = burdens([*quiet, *loud, *small], ["LGG"] * 21 + ["SKCM"] * 20 + ["UVM"] * 3)
    flow = Flow()
    flags = hypermutated(table, RULES, flow)
    assert list(np.flatnonzero(flags)) == [20, 43]
    assert "2 of 44 patients flagged" in flow.notes[0]
    assert hypermutated(table, CohortRules(hypermutation_z=50), Flow()).sum() == 0


def test_hypermutation_without_spread() -> None:
    assert not hypermutated(burdens([1.0] * 30 + [1.1]), RULES, Flow()).any()


def test_refusals(tmp_path: Path) -> None:
    path = write_maf(tmp_path / "calls.maf.gz", CALLS)
    with pytest.raises(UserError, match=r"labelled gene 'KRAZ' occurs nowhere .*did you mean 'KRAS'"):
        read_maf(path, CohortRules(genes=("KRAZ",)))
    cut = tmp_path / "cut.maf.gz"
    cut.write_bytes(write_maf(tmp_path / "long.maf.gz", CALLS * 3000).read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"cut.maf.gz is truncated or damaged"):
        read_maf(cut, RULES)
    ragged = tmp_path / "ragged.maf"
    ragged.write_text("\t".join(["Hugo_Symbol", "Variant_Classification", "Tumor_Sample_Barcode"]) + "\na\tb\n")
    with pytest.raises(UserError, match=r"ragged.maf: not a table of 3 columns"):
        read_maf(ragged, RULES, official=False)
    with pytest.raises(UserError, match=r"ragged.maf: no column HGVSp_Short, FILTER"):
        read_maf(ragged, RULES)
    (tmp_path / "latin.maf").write_bytes(b"Hugo_Symbol\t\xf6\n")
    with pytest.raises(UserError, match=r"latin.maf is not text in UTF-8 \(byte 0xf6\)"):
        read_maf(tmp_path / "latin.maf", RULES)
    (tmp_path / "other.maf").write_text("Hugo_Symbol\tchrom\nKRAS\t12\n")
    with pytest.raises(UserError, match="no column Variant_Classification, Tumor_Sample_Barcode"):
        read_maf(tmp_path / "other.maf", RULES)
