"""What can be handed in to be embedded: AnnData files, tables and cohort folders."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from handed_in import (
    COUNTS,
    ENSEMBL,
    FORMATS,
    GENES,
    KINDS,
    LENGTHS,
    LOGGED,
    PLAIN,
    SAMPLES,
    SYMBOLS,
    TPM,
    ZSCORES,
    G,
    N,
    laid,
    put,
    save,
    table,
)
from matrices import stored

from bulkprobe.cohort import anndata_file
from bulkprobe.cohort.anndata_file import Matrix
from bulkprobe.cohort.build import build_lab_cohort
from bulkprobe.cohort.expression_files import read_lab_expression
from bulkprobe.cohort.gene_keys import gene_columns
from bulkprobe.cohort.inputs import open_input
from bulkprobe.cohort.read import input_hash, read_cohort
from bulkprobe.cohort.store import open_expression, tpm_from_counts
from bulkprobe.errors import UserError
from bulkprobe.files import file_hash, tree_hash

# ---------------------------------------------------------------- AnnData


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float32") for name in FORMATS), (FORMATS[0], "float64"), (FORMATS[0], "int64")]
)
@pytest.mark.parametrize("kind", KINDS)
def test_anndata(tmp_path: Path, name: str, kind: str, dtype: str) -> None:
    path = save(tmp_path / name, laid(COUNTS.astype(dtype), kind), tpm=laid(TPM, kind))
    with open_input(path, "counts", tmp_path / "spool") as given:
        assert (given.sample_ids, given.n_samples, given.scale, given.layers) == (SAMPLES, N, "counts", ["tpm"])
        assert given.var["ensembl_id"].tolist() == given.var.index.tolist() == PLAIN
        assert given.var["symbol"].tolist() == SYMBOLS
        assert given.var["length"].tolist() == LENGTHS.tolist()
        assert given.obs["sample_id"].tolist() == SAMPLES
        assert given.read().dtype == np.float32
        np.testing.assert_array_equal(given.read(), COUNTS)
        np.testing.assert_array_equal(given.read("tpm"), TPM.astype(np.float32))
        order = np.array([11, 0, 3, 3, 7, 1])
        np.testing.assert_array_equal(given.read("X", order), COUNTS[order])
        blocks = list(given.blocks(order, "tpm", size=4))
        assert [len(block) for block in blocks] == [4, 2]
        np.testing.assert_array_equal(np.concatenate(blocks), TPM[order].astype(np.float32))
        assert given.read("X", []).shape == (0, G)
        with pytest.raises(UserError, match=rf"row 12 is not in {name}: expected 0 to 11"):
            given.read("X", [12])
        with pytest.raises(UserError, match=rf"{name} has no layer 'log': it has X, tpm"):
            given.read("log")
        assert given.sha256 == (file_hash(path) if path.is_file() else tree_hash(path))
        assert len(list((tmp_path / "spool").glob("*"))) == (2 if kind == "csc" else 0)
        with pickle.loads(pickle.dumps(given)) as copy:
            np.testing.assert_array_equal(copy.read("tpm", [2, 5]), given.read("tpm", [2, 5]))
        assert given.read("tpm", [2]).shape == (1, G)  # its files are still there
    assert not list((tmp_path / "spool").glob("*"))


def test_a_zarr_folder_of_any_name(tmp_path: Path) -> None:
    path = save(tmp_path / "a.3.zarr").rename(tmp_path / "folder")
    with open_input(path) as given:
        np.testing.assert_array_equal(given.read(), COUNTS)


@pytest.mark.parametrize("kind", KINDS)
def test_tpm_is_computed_from_counts_and_lengths(tmp_path: Path, kind: str) -> None:
    length = LENGTHS.copy()
    length[: G // 2] = np.nan
    path = save(tmp_path / "a.h5ad", laid(COUNTS, kind), var=GENES.assign(length=length))
    with open_input(path) as given:
        assert (given.scale, given.declared, given.layers) == ("counts", "counts", ["tpm"])
        expected = tpm_from_counts(COUNTS.astype(np.float32), length)
        np.testing.assert_array_equal(given.read("tpm"), expected)
        alone = np.concatenate([given.read("tpm", [i]) for i in range(N)])
        assert alone.tobytes() == given.read("tpm").tobytes()
    length[G // 2] = np.nan
    with open_input(save(tmp_path / "b.h5ad", var=GENES.assign(length=length))) as given:
        assert (given.scale, given.layers) == ("counts", [])


def test_an_expression_store_gives_what_it_holds(tmp_path: Path) -> None:
    genes = {"symbol": SYMBOLS[6:], "ensembl": PLAIN[6:], "length": LENGTHS[6:]}
    frame = pd.DataFrame(COUNTS.T[6:], index=pd.Index(SYMBOLS[6:], name="gene"), columns=SAMPLES)
    frame.to_csv(tmp_path / "a.tsv", sep="\t")
    source = read_lab_expression([tmp_path / "a.tsv"], "counts", "genes_by_samples", genes=pd.DataFrame(genes))
    store = stored(tmp_path, source)
    with open_input(store.path) as given:
        pd.testing.assert_frame_equal(given.var, store.var)
        assert (given.scale, given.layers) == ("counts", ["tpm"])
        for layer in ("X", "tpm"):
            assert given.read(layer).tobytes() == store.read(layer).tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("scale", "values", "expected"),
    [
        ("log2_tpm_plus_0.001", np.log2(TPM + 0.001), TPM),
        ("log1p_tpm", np.log1p(TPM), TPM),
        ("log2_counts_plus_1", LOGGED, COUNTS),
        ("tpm", TPM, TPM),
        ("fpkm", TPM * np.linspace(0.1, 0.9, N)[:, None], TPM),
        ("rsem_normalised", COUNTS - (COUNTS == 0) * 0.01 * (np.arange(G) == 3), COUNTS),
        ("zscore", ZSCORES, ZSCORES),
    ],
)
def test_scales(tmp_path: Path, scale: str, values: np.ndarray, expected: np.ndarray, kind: str) -> None:
    path = save(tmp_path / "a.h5ad", laid(values, kind), scale="counts", var=GENES.drop(columns="length"))
    with open_input(path, scale) as given:  # what the user says counts, not what the file notes
        linear = {"log2_counts_plus_1": "counts", "rsem_normalised": scale, "zscore": scale}
        assert (given.scale, given.declared, given.layers) == (linear.get(scale, "tpm"), scale, [])
        np.testing.assert_allclose(given.read(), expected, rtol=2e-5, atol=1e-4)
        alone = np.concatenate([given.read("X", [i]) for i in range(N)])
        assert alone.tobytes() == given.read().tobytes()
    with open_input(save(tmp_path / "b.h5ad", laid(values, kind), scale=scale)) as noted:
        assert noted.declared == scale


def test_the_sample_table_of_a_file(tmp_path: Path) -> None:
    obs = pd.DataFrame(
        {
            "sample_id": "other",
            "age": [50.0, np.nan, *range(10)],
            "sex": pd.Categorical(["female", None, *["male"] * 10]),
            "for_probing": [True] * N,
            "stage": ["I", None, *["II"] * 10],
            "batch": pd.Categorical([1, 2] * 6),
        },
        index=SAMPLES,
    )
    with open_input(save(tmp_path / "a.h5ad", obs=obs)) as given:
        found = given.obs
    assert found.index.tolist() == list(range(N))
    assert found["sample_id"].tolist() == SAMPLES
    assert found["sex"].tolist()[:3] == ["female", None, "male"]
    assert found["stage"].tolist()[:3] == ["I", None, "II"]
    assert {name: str(found[name].dtype) for name in ("age", "sex", "for_probing", "batch")} == {
        "age": "float64",
        "sex": "object",
        "for_probing": "bool",
        "batch": "int64",
    }


@pytest.mark.parametrize(
    ("var", "ids", "symbols"),
    [
        (pd.DataFrame(index=ENSEMBL), PLAIN, [""] * G),
        (pd.DataFrame(index=SYMBOLS), [""] * G, SYMBOLS),
        (pd.DataFrame({"gene_name": SYMBOLS}, index=ENSEMBL), PLAIN, SYMBOLS),
        (pd.DataFrame({"feature_name": pd.Categorical(SYMBOLS)}, index=ENSEMBL), PLAIN, SYMBOLS),
        (pd.DataFrame({"gene_ids": ENSEMBL}, index=SYMBOLS), PLAIN, SYMBOLS),
        (pd.DataFrame({"gene_id": SYMBOLS}, index=[str(i) for i in range(G)]), [""] * G, SYMBOLS),
        (pd.DataFrame({"gene_id": [f"{i}" for i in range(G)]}, index=SYMBOLS), [""] * G, SYMBOLS),
        (pd.DataFrame({"Ensembl": ENSEMBL}, index=[str(i) for i in range(G)]), PLAIN, [""] * G),
        (pd.DataFrame({"symbol": ["", None, *SYMBOLS[2:]]}, index=ENSEMBL), PLAIN, ["", "", *SYMBOLS[2:]]),
        (pd.DataFrame(index=["?|1", "TP53|7157", *ENSEMBL[2:]]), ["", "", *PLAIN[2:]], ["", "TP53"] + [""] * (G - 2)),
        (
            pd.DataFrame(index=["ENSG00000000001.3_PAR_Y", *ENSEMBL[1:]]),
            ["ENSG00000000001_PAR_Y", *PLAIN[1:]],
            [""] * G,
        ),
    ],
)
def test_genes(var: pd.DataFrame, ids: list[str], symbols: list[str]) -> None:
    found = gene_columns(var)
    assert (found["ensembl_id"].tolist(), found["symbol"].tolist()) == (ids, symbols)
    assert found.index.tolist() == [first or second for first, second in zip(ids, symbols, strict=True)]
    assert found["length"].isna().all()


def test_lengths_that_are_none() -> None:
    var = pd.DataFrame({"length": pd.array([100, 0, -5, None], "Int64")}, index=ENSEMBL[:4])
    assert gene_columns(var)["length"].fillna(-1).tolist() == [100, -1, -1, -1]


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("kind", KINDS)
def test_no_read_takes_more_lines_than_asked_for(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    read = Matrix.read

    def counting(matrix: Matrix, start: int, stop: int) -> Any:
        taken.append(stop - start)
        return read(matrix, start, stop)

    monkeypatch.setattr(Matrix, "read", counting)
    monkeypatch.setattr(anndata_file, "BLOCK_VALUES", 5 * (N if kind == "csc" else G))
    with open_input(save(tmp_path / "a.h5ad", laid(COUNTS, kind), tpm=laid(TPM, kind)), "counts") as given:
        assert max(taken) <= 5
        assert sum(taken) == 2 * (G if kind == "csc" else N)  # once through X and the layer
        taken.clear()
        for layer in ("X", "tpm"):
            assert [len(block) for block in given.blocks(layer=layer, size=3)] == [3] * 4
        assert taken == ([] if kind == "csc" else [3] * 8)
        taken.clear()
        given.read("X", [9, 0, 2, 5])
        assert sum(taken) <= 2 * 4


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_samples(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    genes = 400
    monkeypatch.setattr(anndata_file, "BLOCK_VALUES", 1 << 13)
    peaks = []
    for n_samples in (500, 2000):
        values = np.random.default_rng(1).poisson(30, (n_samples, genes)).astype(np.float32)
        values[:, 0] = 1000
        data = anndata.AnnData(laid(values, kind), layers={"tpm": laid(values / 13 + 0.5, kind)})
        data.var_names = [f"ENSG{i:011d}" for i in range(genes)]
        path = put(tmp_path / f"{n_samples}.h5ad", data)
        tracemalloc.start()
        with open_input(path, "counts", tmp_path) as given:
            for block in given.blocks(layer="tpm", size=16):
                assert block.shape == (min(16, len(block)), genes)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 1500 * genes * 4 / 3  # of one matrix; names and sums of samples do grow


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.tsv.gz", "a.csv.gz", "a.parquet"])
@pytest.mark.parametrize("genes", [SYMBOLS, ENSEMBL], ids=["symbols", "ensembl"])
def test_tables(tmp_path: Path, name: str, turned: bool, genes: list[str]) -> None:
    path = table(tmp_path / name, COUNTS, genes, turned=turned)
    with open_input(path, folder=tmp_path / "spool") as given:
        assert (given.sample_ids, given.scale, given.layers) == (SAMPLES, "counts", [])
        assert given.var.index.tolist() == (SYMBOLS if genes is SYMBOLS else PLAIN)
        assert given.var["symbol"].tolist() == (SYMBOLS if genes is SYMBOLS else [""] * G)
        assert given.var["ensembl_id"].tolist() == ([""] * G if genes is SYMBOLS else PLAIN)
        assert given.obs.to_dict("list") == {"sample_id": SAMPLES}
        np.testing.assert_array_equal(given.read(), COUNTS)
        np.testing.assert_array_equal(given.read("X", [5, 4, 11]), COUNTS[[5, 4, 11]])
        assert given.sha256 == file_hash(path)
        assert len(list((tmp_path / "spool").iterdir())) == 1
    assert not list((tmp_path / "spool").iterdir())


@pytest.mark.parametrize("turned", [False, True])
def test_scales_of_tables(tmp_path: Path, turned: bool) -> None:
    with open_input(table(tmp_path / "a.tsv", LOGGED, turned=turned), "log2_counts_plus_1") as given:
        np.testing.assert_allclose(given.read(), COUNTS, rtol=1e-5)
        assert given.scale == "counts"
    with open_input(table(tmp_path / "a.parquet", COUNTS * 7.3, turned=turned), "fpkm") as given:
        np.testing.assert_allclose(given.read(), TPM, rtol=1e-5)
        assert (given.scale, given.declared) == ("tpm", "fpkm")


# ---------------------------------------------------------------- a cohort folder


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    table(tmp_path / "counts.tsv", COUNTS[:, 6:], SYMBOLS[6:])
    people = {"sample": SAMPLES[::-1], "cancer_type": "LUAD", "age": range(40, 40 + N)}
    pd.DataFrame(people).to_csv(tmp_path / "samples.csv", index=False)
    genes = {"symbol": SYMBOLS[6:], "ensembl": PLAIN[6:], "length": LENGTHS[6:]}
    pd.DataFrame(genes).to_csv(tmp_path / "genes.csv", index=False)
    config = {
        "expression": "counts.tsv",
        "expression_scale": "counts",
        "orientation": "genes_by_samples",
        "samples": "samples.csv",
        "genes": "genes.csv",
    }
    build_lab_cohort(config, tmp_path, tmp_path / "cohort")
    return tmp_path / "cohort"


def test_a_cohort_folder(cohort: Path) -> None:
    store = open_expression(cohort)
    with open_input(cohort) as given, open_input(cohort, "counts") as same:
        assert (given.sample_ids, given.scale, given.layers) == (store.sample_ids, "counts", ["tpm"])
        pd.testing.assert_frame_equal(given.var, store.var)
        samples = read_cohort(cohort).samples.set_index("sample_id", drop=False)
        pd.testing.assert_frame_equal(given.obs, samples.loc[store.sample_ids].reset_index(drop=True))
        assert given.sha256 == same.sha256 == input_hash(cohort)
        for layer in ("X", "tpm"):
            assert given.read(layer).tobytes() == store.read(layer).tobytes()
        np.testing.assert_array_equal(given.read("tpm", [7, 2]), store.read("tpm", [7, 2]))
    with pytest.raises(
        UserError, match="cohort is a cohort folder on the scale 'counts', not 'tpm': leave --scale out"
    ):
        open_input(cohort, "tpm")


def test_a_cohort_folder_whose_tables_do_not_match(cohort: Path) -> None:
    samples = pd.read_parquet(cohort / "samples.parquet")
    samples[samples["sample_id"] != "patient_3"].to_parquet(cohort / "samples.parquet", index=False)
    with pytest.raises(UserError, match=r"1 samples are not in samples\.parquet: patient_3"):
        open_input(cohort)


def test_temporary_files_without_a_folder_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "system"))
    (tmp_path / "system").mkdir()
    with open_input(table(tmp_path / "a.tsv", COUNTS)) as given:  # no folder: the system's
        assert [file.name[:7] for file in (tmp_path / "system").iterdir()] == [".a.tsv."]
        np.testing.assert_array_equal(given.read(), COUNTS)
    assert not list((tmp_path / "system").iterdir())
    given = open_input(tmp_path / "a.tsv")
    assert len(list((tmp_path / "system").iterdir())) == 1
    del given
    assert not list((tmp_path / "system").iterdir())
