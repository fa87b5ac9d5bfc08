from __future__ import annotations

from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest

from bulkprobe.errors import UserError
from bulkprobe.files import read_json, tree_hash
from bulkprobe.sources import simulate_files
from bulkprobe.sources.simulate import Simulation, simulate
from bulkprobe.sources.simulate_plan import (
    EFFECTS,
    LEAST_EVENTS,
    LEAST_PATIENTS,
    LEAST_POSITIVES,
    PROGRAMS,
    WITHIN_TYPE,
    cancer_figures,
    gene_facts,
)


@pytest.fixture(scope="module")
def drawn() -> Simulation:
    return simulate(patients=2130, genes=400, seed=3)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    simulate_files.fetch_simulated(folder / "raw", folder / "truth", patients=240, genes=320, seed=5)
    return folder


def test_gene_facts_are_unique_and_hold_the_labelled_genes() -> None:
    facts = gene_facts()
    assert facts.ensembl_id.is_unique
    assert facts.symbol.is_unique
    assert (facts.length > 0).all()
    assert dict(facts.set_index("symbol").ensembl_id)["TP53"] == "ENSG00000141510"
    assert set(EFFECTS) <= set(facts.symbol)


def test_every_probed_type_has_a_hundred_patients_and_every_label_thirty(drawn: Simulation) -> None:
    table, figures = drawn.patients, cancer_figures()
    usable = table[~table.redacted & (table.os_time > 0)]
    assert figures.index.size >= 16
    for code in figures.index[figures.probed_events == 1]:
        rows = usable[usable.cancer_type == code]
        assert len(rows) >= 100, code
        assert rows.os_event.sum() >= 30, code
    colorectal = usable[usable.cancer_type.isin(["COAD", "READ"])]
    assert colorectal.os_event.sum() >= 30
    for code, genes in WITHIN_TYPE.items():
        for gene in genes:
            positives = drawn.mutated[gene][table.profiled & (table.cancer_type == code)].sum()
            assert positives >= LEAST_POSITIVES, (code, gene)


@pytest.mark.parametrize("seed", [0, 2, 5, 11, 19, 22])  # drops by chance would leave too few in each of these
def test_enough_is_left_after_the_drops_of_the_cohort(seed: int) -> None:
    drawn = simulate(patients=2130, genes=300, seed=seed)
    table, figures = drawn.patients, cancer_figures()
    marked = drawn.samples.patient[drawn.samples.do_not_use & drawn.samples.sample_type.isin(["01", "03", "06"])]
    left = table[~table.redacted & ~table.index.isin(marked)]
    followed = left[left.os_time > 0]
    for code in figures.index[figures.probed_events == 1]:
        rows = followed[followed.cancer_type == code]
        assert len(rows) >= LEAST_PATIENTS, code
        assert rows.os_event.sum() >= LEAST_EVENTS, code
        assert rows.pfi_event.sum() >= LEAST_EVENTS, code
    for code, genes in WITHIN_TYPE.items():
        rows = left[left.profiled & (left.cancer_type == code)]
        assert len(rows) >= LEAST_PATIENTS, code
        for gene in genes:
            assert drawn.mutated.loc[rows.index, gene].sum() >= LEAST_EVENTS, (code, gene)
    assert len(marked)
    assert table.redacted.any()
    assert (table.os_time == 0).any()
    assert table.os_time.isna().any()


def test_frequencies_event_rates_and_follow_up_are_near_the_published_ones(drawn: Simulation) -> None:
    table, figures = drawn.patients, cancer_figures()
    for code, rows in table.groupby("cancer_type"):
        fact = figures.loc[str(code)]
        assert abs(rows.os_event.mean() - fact.os_rate) < 0.09, code
        assert 0.75 < rows.os_time.median() / fact.os_days < 1.35, code
        for gene in EFFECTS:
            fraction = drawn.mutated.loc[rows.index[rows.profiled], gene].mean()
            assert abs(fraction - fact[gene]) < 0.05, (code, gene)


def test_library_sizes_look_real(drawn: Simulation) -> None:
    sizes = drawn.counts.sum(axis=0)
    assert 2e7 < np.median(sizes) < 1e8
    assert sizes.max() / sizes.min() > 3
    assert drawn.counts.min() >= 0
    zeros = (drawn.counts == 0).mean()
    assert 0.01 < zeros < 0.2


def test_what_tcga_has_is_there(drawn: Simulation) -> None:
    kinds = drawn.samples.sample_type.value_counts()
    assert {"01", "02", "03", "06", "11"} <= set(kinds.index)
    assert drawn.samples.patient.duplicated().any()
    table = drawn.patients
    assert (table.os_time == 0).any()
    assert table.os_time.isna().any()
    assert table.redacted.any()
    assert table.hypermutated.any()
    assert (~table.profiled).any()
    assert table.groupby("cancer_type").site.nunique().min() >= 3


def test_mutation_shifts_its_program_and_nothing_else(drawn: Simulation) -> None:
    """A planted gene's module moves in mutated tumours of one type, by what was planted; a null gene moves none."""
    log = np.log2(drawn.counts + 1)
    primary = drawn.samples.sample_type.isin(["01"]).to_numpy()
    patient = drawn.samples.patient.to_numpy()
    module = {name: (drawn.loadings[name] > 0).to_numpy() for name in PROGRAMS}
    shift = {}
    for gene, code in (("TP53", "BRCA"), ("KRAS", "COAD"), ("EGFR", "LUAD"), ("BAP1", "KIRC")):
        rows = primary & (drawn.patients.cancer_type.to_numpy()[patient] == code)
        mutated = drawn.mutated[gene].to_numpy()[patient]
        members = module.get(gene, module["prognosis"])
        activity = log[members].mean(axis=0)
        difference = activity[rows & mutated].mean() - activity[rows & ~mutated].mean()
        shift[gene] = difference / 0.6  # the mean loading
    assert abs(shift["TP53"] - EFFECTS["TP53"]) < 0.8
    assert abs(shift["KRAS"] - EFFECTS["KRAS"]) < 0.8
    assert abs(shift["EGFR"]) < 0.8
    assert abs(shift["BAP1"]) < 0.8


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path, raw: Path) -> None:
    simulate_files.fetch_simulated(tmp_path / "raw", tmp_path / "truth", patients=240, genes=320, seed=5)
    assert tree_hash(tmp_path / "raw") == tree_hash(raw / "raw")
    assert tree_hash(tmp_path / "truth") == tree_hash(raw / "truth")
    simulate_files.fetch_simulated(tmp_path / "raw", tmp_path / "truth", patients=240, genes=320, seed=6)
    assert tree_hash(tmp_path / "raw") != tree_hash(raw / "raw")


def test_matrices_have_the_format_of_the_toil_hub(raw: Path) -> None:
    tpm = pd.read_csv(raw / "raw" / "tcga_RSEM_gene_tpm.gz", sep="\t", index_col="sample")
    counts = pd.read_csv(raw / "raw" / "tcga_gene_expected_count.gz", sep="\t", index_col="sample")
    assert list(tpm.columns) == list(counts.columns)
    assert all(len(name) == 15 and name.startswith("TCGA-") for name in tpm.columns)
    assert tpm.index.str.match(r"^ENS(G|GR)\d{10,11}\.\d+$").all()
    assert tpm.to_numpy().min() == -9.9658
    np.testing.assert_allclose((2**tpm - 0.001).sum(), 1e6, rtol=2e-3)
    np.testing.assert_allclose((2**counts - 1).min().min(), 0.0, atol=1e-9)
    back = (2**counts - 1).round(2)
    assert (back % 1 > 0).to_numpy().any(), "RSEM's expected counts are fractional"


def test_the_maf_has_the_public_header_and_its_traps(raw: Path) -> None:
    maf = pd.read_csv(raw / "raw" / "mc3.v0.2.8.PUBLIC.maf.gz", sep="\t", low_memory=False)
    assert maf.shape[1] == 114
    assert {"PASS", "wga", "oxog"} <= set(maf.FILTER)
    assert maf.Tumor_Sample_Barcode.str.len().eq(28).all()
    assert {"Silent", "Missense_Mutation"} <= set(maf.Variant_Classification)


def test_the_clinical_spreadsheet_has_the_published_sheet(raw: Path) -> None:
    book = openpyxl.load_workbook(raw / "raw" / "TCGA-CDR-SupplementalTableS1.xlsx", read_only=True)
    head = [cell.value for cell in next(iter(book["TCGA-CDR"].rows))]
    assert head[0] is None
    assert {"bcr_patient_barcode", "type", "OS", "OS.time", "PFI.time", "Redaction"} <= set(head)
    book.close()


def test_the_truth_stands_beside_the_files_and_not_among_them(raw: Path) -> None:
    truth = read_json(raw / "truth" / "truth.json")
    assert truth["simulated"] is True
    assert truth["genes"]["EGFR"]["strength"] == "none"
    assert not any("truth" in p.name for p in (raw / "raw").iterdir())
    source = read_json(raw / "raw" / "source.json")
    assert source["source"] == "simulated"
    assert "mc3.v0.2.8.PUBLIC.maf.gz" in source["files"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patients": 2000, "genes": 99}, r"cohort\.simulated\.genes is 99"),
        ({"patients": 2000, "genes": 10**6}, r"cohort\.simulated\.genes is 1000000, but between 300 and"),
        ({"patients": 50, "genes": 400}, r"cohort\.simulated\.patients is 50"),
    ],
)
def test_impossible_sizes_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        simulate(**arguments, seed=1)
