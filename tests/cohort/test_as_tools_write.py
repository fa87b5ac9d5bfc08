"""Tables as tools and spreadsheets write them: columns beside the samples, names of genes, text of other kinds."""

from __future__ import annotations

import bz2
import lzma
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import quantified as made
from matrices import stored
from quantified import fails, values_of

from bulkprobe.cohort.build import build_lab_cohort
from bulkprobe.cohort.expression_files import read_lab_expression
from bulkprobe.cohort.inputs import open_input
from bulkprobe.cohort.read import read_cohort
from bulkprobe.cohort.store import open_expression
from bulkprobe.errors import UserError

COUNTS = pd.DataFrame(made.GENE_COUNTS.T.astype(int), index=pd.Index(made.GENES, name="gene_id"), columns=made.NAMES)
ABOUT = COUNTS.copy()
ABOUT.insert(0, "gene_name", made.SYMBOLS)
ABOUT.insert(1, "description", "a, gene; of 2")
ABOUT["Length"] = made.LENGTHS


def write(path: Path, table: pd.DataFrame, **how: Any) -> Path:
    if path.suffix == ".parquet":
        table.to_parquet(path, **how)
    else:
        table.to_csv(path, sep="," if ".csv" in path.suffixes else "\t", **how)
    return path


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.csv.gz", "a.parquet", "quoted.csv"])
def test_columns_that_tell_of_genes(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ABOUT, **({"quoting": 1} if name.startswith("quoted") else {}))
    source = read_lab_expression([path], "counts")
    assert source.sample_ids == made.NAMES
    store = stored(tmp_path, source)
    np.testing.assert_array_equal(store.read(), made.GENE_COUNTS)
    assert list(store.var["ensembl_id"]) == made.PLAIN
    assert list(store.var["symbol"]) == made.SYMBOLS
    np.testing.assert_array_equal(store.var["length"], made.LENGTHS)
    with open_input(path, "counts", tmp_path / "aside") as given:  # a column Length is no sample
        assert given.sample_ids == made.NAMES
        np.testing.assert_array_equal(given.read(), made.GENE_COUNTS)
        assert list(given.var["symbol"]) == made.SYMBOLS
        rate = made.GENE_COUNTS / made.LENGTHS
        np.testing.assert_allclose(given.read("tpm"), rate / rate.sum(axis=1, keepdims=True) * 1e6, rtol=1e-5)


def test_ids_beside_symbols(tmp_path: Path) -> None:
    table = COUNTS.set_axis(pd.Index(made.SYMBOLS, name="gene_name")).assign(gene_id=made.GENES)
    for name in ("a.tsv", "a.parquet"):
        store = stored(tmp_path, read_lab_expression([write(tmp_path / name, table)], "counts"))
        assert list(store.var["ensembl_id"]) == made.PLAIN
        assert list(store.var["symbol"]) == made.SYMBOLS


def test_samples_in_rows_keep_their_columns(tmp_path: Path) -> None:
    turned = COUNTS.T.assign(SYMBOL=range(made.N)).rename_axis("sample")  # whatever it is, it is one of the columns
    assert len(read_lab_expression([write(tmp_path / "t.tsv", turned)], "counts").var) == made.G + 1


@pytest.mark.parametrize("turned", [False, True])
def test_quoted_names_with_commas(tmp_path: Path, turned: bool) -> None:
    names = [f"{name}, left" for name in made.NAMES]
    table = COUNTS.set_axis(names, axis=1)
    path = write(tmp_path / "a.csv", table.T if turned else table)
    assert read_lab_expression([path], "counts").sample_ids == names
    np.testing.assert_array_equal(values_of(path, tmp_path / "aside", "counts")[0], made.GENE_COUNTS)


def test_ragged_lines_beside_annotation(tmp_path: Path) -> None:
    lines = ABOUT.to_csv(sep="\t").splitlines()
    lines[5] = lines[5].rsplit("\t", 3)[0]
    with pytest.raises(UserError, match="line 6: 6 fields where the header has 9"):
        values_of(made.put(tmp_path / "a.tsv", lines), tmp_path, "counts")


def test_text_of_other_kinds(tmp_path: Path) -> None:
    text = COUNTS.to_csv(sep="\t")

    def wrong(name: str, content: bytes | str, match: str) -> None:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(UserError, match=match):
            values_of(tmp_path / name, tmp_path / "aside", "counts")

    wrong("a.tsv", text.encode("utf-16"), "a.tsv is text in UTF-16: expected plain text in UTF-8")
    wrong("a.tsv.bz2", bz2.compress(text.encode()), "is packed with bzip2: expected plain text")
    wrong("a.tsv.xz", lzma.compress(text.encode()), "is packed with xz: expected plain text")
    wrong("b.csv", text.replace("\t", ";"), "with commas between them; export it with commas")
    wrong("c.csv", text, "it has tabs, so name it .tsv")
    wrong("c.txt", text.replace("\t", ","), "it has commas, so name it .csv")
    wrong("d.tsv", "# made by us\n" + text, "delete the lines above the header")
    halves = COUNTS + 0.5
    wrong("e.tsv", halves.to_csv(sep="\t", decimal=","), "'[0-9]+,5' where a number .*; export numbers with a point")
    wrong("e.csv", halves.to_csv(decimal=","), "'[0-9]+,5' where a number .*; export numbers with a point")
    wrong("f.tsv", COUNTS.astype(object).mask(COUNTS > 1000, "N/A").to_csv(sep="\t"), "'N/A' .*; leave the column out")


def test_byte_order_mark_before_the_first_sample(tmp_path: Path) -> None:
    path = tmp_path / "r.tsv"  # as R writes it: no name above the genes
    path.write_bytes(b"\xef\xbb\xbf" + COUNTS.to_csv(sep="\t").removeprefix("gene_id\t").encode())
    source = read_lab_expression([path], "counts")
    assert source.sample_ids == made.NAMES


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    made.salmon(tmp_path / "runs/a/b/c")
    said = "runs is not a cohort folder, nor does it hold the output of Salmon.* three levels down"
    with pytest.raises(UserError, match=said):
        open_input(tmp_path / "runs")


# ---------------------------------------------------------------- tables of samples and mutations


def lab(folder: Path, **config: Any) -> dict[str, Any]:
    write(folder / "counts.tsv", COUNTS)
    config = {"expression": "counts.tsv", "expression_scale": "counts"} | config
    return build_lab_cohort(config, folder, folder / "cohort")


def people() -> pd.DataFrame:
    table = pd.DataFrame({"sample_id": made.NAMES, "cancer_type": "KIRC", "age": 60.5})
    return table.assign(os_time_days=np.arange(1, made.N + 1) * 300, os_event=[1, 0, 1, 1, 0])


@pytest.mark.parametrize("index", ["gene", None])
def test_tables_that_pandas_wrote_with_an_index(tmp_path: Path, index: str | None) -> None:
    people().set_index("sample_id").to_parquet(tmp_path / "s.parquet")
    status = pd.DataFrame([[1, 0, 1, 0, 0], [0, 0, 1, 1, 1]], pd.Index(["TP53", "BAP1"], name=index), made.NAMES)
    status.to_parquet(tmp_path / "m.parquet")
    pd.DataFrame({"symbol": made.SYMBOLS}, pd.Index(made.PLAIN, name="ensembl_id")).to_parquet(tmp_path / "g.parquet")
    lab(tmp_path, samples="s.parquet", mutations="m.parquet", genes="g.parquet")
    cohort = read_cohort(tmp_path / "cohort")
    assert list(cohort.samples["sample_id"]) == made.NAMES
    found = cohort.mutations.pivot(index="gene", columns="patient_id", values="mutated")
    np.testing.assert_array_equal(found.loc[status.index, made.NAMES].to_numpy(bool), status == 1)
    assert list(open_expression(tmp_path / "cohort").var["symbol"]) == made.SYMBOLS


def test_samples_named_by_numbers(tmp_path: Path) -> None:
    numbers = [str(100 + i) for i in range(made.N)]
    people().assign(sample_id=numbers).to_csv(tmp_path / "s.csv", index=False)
    write(tmp_path / "n.csv", COUNTS.set_axis(numbers, axis=1).rename_axis(None))  # its first line has numbers only
    lab(tmp_path, samples="s.csv", expression="n.csv")
    assert list(read_cohort(tmp_path / "cohort").samples["sample_id"]) == numbers
    np.testing.assert_array_equal(open_expression(tmp_path / "cohort").read(), made.GENE_COUNTS)


def test_files_of_the_gdc_without_their_sheet(tmp_path: Path) -> None:
    for path in list(made.gdc(tmp_path / "gdc").glob("*/*")):
        path.rename(path.with_name(path.name.replace("0000-", "0a1b2c3d-0000-4000-8000-00000000000")))
    people().to_csv(tmp_path / "s.csv", index=False)
    config = {"expression": "gdc", "expression_scale": None, "samples": "s.csv"}
    with pytest.raises(UserError, match=r"expected the same identifiers in both: put the portal's gdc_sample_sheet"):
        lab(tmp_path, **config)


def test_separators_of_the_other_tables(tmp_path: Path) -> None:
    people().to_csv(tmp_path / "s.csv", sep=";", decimal=",", index=False)
    with pytest.raises(UserError, match=r"s.csv has one column .* export it with commas between its fields, and"):
        lab(tmp_path, samples="s.csv")
    people().to_csv(tmp_path / "s.csv", sep="\t", index=False)
    with pytest.raises(UserError, match=r"s.csv has one column .* it has tabs, so name it .tsv"):
        lab(tmp_path, samples="s.csv", columns={"age": "age"})
    assert not (tmp_path / "cohort").exists()


# ---------------------------------------------------------------- AnnData


def adata(var: pd.DataFrame) -> anndata.AnnData:
    return anndata.AnnData(made.GENE_COUNTS.copy(), pd.DataFrame(index=made.NAMES), var)


@pytest.mark.parametrize(
    "var",
    [
        pd.DataFrame({"gene_ids": made.GENES}, index=made.SYMBOLS),  # 10x, scanpy
        pd.DataFrame({"feature_name": pd.Categorical(made.SYMBOLS)}, index=made.PLAIN),  # CELLxGENE
        pd.DataFrame({"gene_id": made.GENES, "gene_name": made.SYMBOLS}, index=[str(i) for i in range(made.G)]),
    ],
)
def test_var_names_ids_and_symbols(tmp_path: Path, var: pd.DataFrame) -> None:
    adata(var).write_h5ad(tmp_path / "a.h5ad")
    store = stored(tmp_path, read_lab_expression([tmp_path / "a.h5ad"], "counts"))
    assert list(store.var["ensembl_id"]) == made.PLAIN
    assert list(store.var["symbol"]) == made.SYMBOLS
    np.testing.assert_array_equal(store.read(), made.GENE_COUNTS)


def test_anndata_that_is_turned_or_nameless(tmp_path: Path) -> None:
    adata(pd.DataFrame(index=made.GENES)).T.copy().write_h5ad(tmp_path / "t.h5ad")
    fails(tmp_path / "t.h5ad", r"t.h5ad has genes in obs .* transpose it", scale="counts")
    with pytest.raises(UserError, match="transpose it"):
        open_input(tmp_path / "t.h5ad", "counts")
    adata(pd.DataFrame(index=[str(i) for i in range(made.G)])).write_h5ad(tmp_path / "n.h5ad")
    fails(tmp_path / "n.h5ad", "names its genes 0, 1, 2, which are neither Ensembl ids nor symbols", scale="counts")


# ---------------------------------------------------------------- a table of genes


def hgnc(path: Path) -> Path:
    lines = ["hgnc_id\tsymbol\talias_symbol\tprev_symbol\tensembl_gene_id"]
    lines += ["1\tKMT2D\tALR\tMLL2|TNRC21\tENSG00000167548", "2\tTP53\tp53|LFS1\t\tENSG00000141510"]
    return made.put(path, [*lines, "3\tEGFR\tERBB1\tERBB\tENSG00000146648", "4\tNAMED\tOLDNAME\t\t"])


def test_aliases_get_the_approved_symbol(tmp_path: Path) -> None:
    names = ["MLL2", "p53", "EGFR", "OLDNAME", "ENSG00000167548.3"]
    table = COUNTS.iloc[:5].set_axis(pd.Index(names, name="gene"))
    path, genes = write(tmp_path / "a.tsv", table), hgnc(tmp_path / "hgnc.txt")
    ids = ["ENSG00000167548", "ENSG00000141510", "ENSG00000146648"]
    approved = ["KMT2D", "TP53", "EGFR", "NAMED"]
    store = stored(tmp_path, read_lab_expression([path], "counts", genes=genes))
    assert list(store.var["symbol"]) == approved
    values = table.to_numpy().T
    np.testing.assert_array_equal(store.read(), np.c_[values[:, 0] + values[:, 4], values[:, 1:4]])
    with open_input(path, "counts", tmp_path / "aside", genes=genes) as given:
        assert list(given.var["symbol"]) == [*approved, "KMT2D"]
        assert list(given.var["ensembl_id"]) == [*ids, "", ids[0]]
        np.testing.assert_array_equal(given.read(), values)
        first = given.sha256
    genes.write_text(genes.read_text().replace("LFS1", "LFS2"))
    with open_input(path, "counts", tmp_path / "aside", genes=genes) as given:
        assert given.sha256 != first


def test_samples_called_as_an_alias_are_samples(tmp_path: Path) -> None:
    aliases = [*made.NAMES, *[""] * (made.G - made.N)]
    lines = ["symbol\talias_symbol", *made.rows(made.SYMBOLS, aliases)]
    path = write(tmp_path / "a.tsv", COUNTS.set_axis(pd.Index(made.SYMBOLS, name="gene")))
    genes = made.put(tmp_path / "g.txt", lines)
    assert read_lab_expression([path], "counts", genes=genes).sample_ids == made.NAMES


@pytest.mark.parametrize("option", ["genes", "transcripts"])
def test_an_annotation_names_what_is_embedded(tmp_path: Path, option: str) -> None:
    annotation = made.gtf(tmp_path / "g.gtf")
    folder = made.star(tmp_path / "in") if option == "genes" else made.salmon(tmp_path / "in")
    how: dict[str, Any] = {option: annotation}
    with open_input(folder, None, tmp_path / "aside", **how) as given:
        assert list(given.var["symbol"]) == made.SYMBOLS
        assert list(given.var["ensembl_id"]) == made.PLAIN
        np.testing.assert_array_equal(given.var["length"], made.LENGTHS)
        assert given.layers == ["tpm"]
    data = adata(pd.DataFrame(index=made.GENES))
    with open_input(data, "counts", tmp_path / "aside", genes=annotation) as given:
        assert list(given.var["symbol"]) == made.SYMBOLS


# ---------------------------------------------------------------- names in quantifiers' output


@pytest.mark.parametrize(
    "ending",
    [".sorted.markdup.bam", ".markdup.sorted.bam", "Aligned.sortedByCoord.out.dedup.bam", ".fastq.gz.subread.BAM"],
)
def test_endings_of_alignments_in_any_order(tmp_path: Path, ending: str) -> None:
    path = made.feature_counts(tmp_path / "c.txt", bams=[f"out/{name}{ending}" for name in made.NAMES])
    assert read_lab_expression([path], None).sample_ids == made.NAMES
    path = made.feature_counts(tmp_path / "d.txt", bams=[f"{i // 3}/P{i % 3}.bam" for i in range(made.N)])
    fails(path, "has repeated samples: P0, P1;")


def test_y_copies_named_by_rsem_are_dropped(tmp_path: Path) -> None:
    folder = made.rsem(tmp_path / "in", named=True)
    for path in folder.iterdir():
        path.write_text(path.read_text() + "ENSG00000000001.2_PAR_Y_TP53\tx\t900\t700\t5000\t3\t4\n")
    store = stored(tmp_path, source := read_lab_expression([folder], None))
    assert list(store.var["symbol"]) == made.SYMBOLS
    assert source.notes["par_y_rows_dropped"] == 1
    np.testing.assert_allclose(store.read(), made.GENE_COUNTS, atol=0.01)
