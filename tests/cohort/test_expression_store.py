"""The expression store: format, alignment, TPM, order, bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from matrices import matrix_text, tpm_values, write

from bulkprobe import files
from bulkprobe.cohort import store as store_module
from bulkprobe.cohort.expression import XenaMatrix, spool_genes
from bulkprobe.cohort.store import Index, Rows, open_expression, tpm_from_counts, write_expression
from bulkprobe.errors import UserError

GENES = [f"ENSG{i:011d}" for i in range(30)]
SAMPLES = [f"S{i}" for i in range(11)]


class Table:
    """A matrix in memory as a source."""

    def __init__(self, values: np.ndarray, sample_ids: list[str] = SAMPLES, genes: list[str] = GENES) -> None:
        self.values, self.sample_ids, self.genes = values.astype(np.float32), list(sample_ids), list(genes)
        self.notes: dict[str, int | float | str] = {}

    @contextmanager
    def rows(self, keep: Index, folder: Path) -> Iterator[Rows]:
        blocks = iter([(self.genes[:7], self.values[:, :7]), (self.genes[7:], self.values[:, 7:])])
        with spool_genes(blocks, keep, len(self.sample_ids), folder / "tiles", "table") as rows:
            yield rows


def counts(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(40, (len(SAMPLES), len(GENES))).astype(np.float32)


def gene_table(genes: list[str] = GENES) -> pd.DataFrame:
    lengths = 500.0 + 10 * np.arange(len(genes))
    return pd.DataFrame({"ensembl_id": genes, "symbol": [f"G{g[-2:]}" for g in genes], "length": lengths})


def save(path: Path, **options: Any) -> Path:
    given: dict[str, Any] = {
        "sample_ids": SAMPLES,
        "var": gene_table(),
        "layers": {"X": Table(counts()), "tpm": None},
        "scale": "counts",
    }
    return write_expression(path, **(given | options))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "CHUNK_BYTES", 4 * len(GENES) * 2)
    monkeypatch.setattr(store_module, "SHARD_BYTES", 4 * len(GENES) * 4)


@pytest.mark.usefixtures("small_shards")
def test_anndata_reads_it(tmp_path: Path) -> None:
    path = save(tmp_path / "cohort", uns={"note": "a", "n": 3})
    assert path == tmp_path / "cohort" / "expression.zarr"
    found = anndata.read_zarr(path)
    np.testing.assert_array_equal(found.X, counts())
    assert found.X.dtype == np.float32
    assert list(found.obs_names) == SAMPLES
    assert list(found.var_names) == GENES
    assert list(found.var.columns) == ["ensembl_id", "symbol", "length"]
    assert list(found.layers) == ["tpm"]
    assert found.uns["scale"] == "counts"
    assert (found.uns["note"], int(found.uns["n"])) == ("a", 3)
    assert not [p for p in (tmp_path / "cohort").iterdir() if p.name != "expression.zarr"]


@pytest.mark.usefixtures("small_shards")
def test_reader(tmp_path: Path) -> None:
    save(tmp_path)
    store = open_expression(tmp_path)
    assert (store.n_samples, store.scale, store.layers) == (11, "counts", ["tpm"])
    assert store.sample_ids == SAMPLES
    pd.testing.assert_frame_equal(store.var.reset_index(drop=True), gene_table(), check_dtype=False)
    np.testing.assert_array_equal(store.read(), counts())
    order = np.array([10, 0, 3, 3, 7])
    np.testing.assert_array_equal(store.read("X", order), counts()[order])
    blocks = list(store.blocks(order, "tpm", size=2))
    assert [len(block) for block in blocks] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(blocks), store.read("tpm")[order])
    assert store.read("X", []).shape == (0, 30)
    with pytest.raises(UserError, match=r"row 11 is not in expression\.zarr: expected 0 to 10"):
        store.read("X", [11])
    with pytest.raises(UserError, match="has no layer 'log': it has X, tpm"):
        store.read("log")


def test_bytes_are_equal_twice_and_shards_are_few(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a"), save(tmp_path / "b")
    assert files.tree_hash(first) == files.tree_hash(second)
    assert [p.name for p in (first / "X" / "c" / "0").iterdir()] == ["0"]
    before = files.tree_hash(first)
    save(tmp_path / "a")  # replaces
    assert files.tree_hash(first) == before


def test_tpm_is_computed_from_counts_and_lengths(tmp_path: Path) -> None:
    var = gene_table()
    var.loc[[3, 5], "length"] = np.nan
    store = open_expression(save(tmp_path, var=var))
    rate = counts().astype(np.float64) / var["length"].to_numpy()
    rate[:, [3, 5]] = 0
    expected = rate / rate.sum(axis=1, keepdims=True) * 1e6
    np.testing.assert_allclose(store.read("tpm"), expected, rtol=1e-6)
    assert store.uns["genes_without_length"] == 2
    assert store.uns["tpm"] == "computed from counts and lengths"


def test_no_tpm_where_most_lengths_are_unknown(tmp_path: Path) -> None:
    store = open_expression(save(tmp_path, var=gene_table().assign(length=np.nan)))
    assert (store.scale, store.layers) == ("counts", [])
    assert store.uns["tpm"] == "absent: too few gene lengths are known"
    assert store.uns["genes_without_length"] == 30


def test_tpm_by_hand() -> None:
    found = tpm_from_counts(np.array([[10, 10, 5]], np.float32), np.array([1000.0, 500.0, np.nan]))
    np.testing.assert_allclose(found, [[1e6 / 3, 2e6 / 3, 0]], rtol=1e-6)
    with pytest.raises(UserError, match="1 samples have no reads on genes of known length"):
        tpm_from_counts(np.array([[0, 0, 5]], np.float32), np.array([1000.0, 500.0, np.nan]))


def test_sources_in_other_orders_are_aligned(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    tpm = rng.random((11, 30)).astype(np.float32)
    genes, samples = rng.permutation(30), rng.permutation(11)
    other = Table(tpm[samples][:, genes], [SAMPLES[i] for i in samples], [GENES[i] for i in genes])
    keep = ["S9", "S2", "S5"]
    store = open_expression(
        save(
            tmp_path,
            layers={"X": Table(counts()), "tpm": other},
            var=gene_table().iloc[::-1],
            keep=keep,
            sample_ids=["a", "b", "c"],
        )
    )
    assert store.sample_ids == ["a", "b", "c"]
    assert list(store.var["ensembl_id"]) == GENES
    assert list(store.var["length"]) == list(gene_table()["length"])
    np.testing.assert_array_equal(store.read(), counts()[[9, 2, 5]])
    np.testing.assert_array_equal(store.read("tpm"), tpm[[9, 2, 5]])
    assert store.uns["tpm"] == "source"


@pytest.mark.parametrize("scale", ["tpm", "rsem_normalised", "zscore"])
def test_scales_without_a_tpm_layer(tmp_path: Path, scale: str) -> None:
    store = open_expression(save(tmp_path, scale=scale))
    assert (store.scale, store.layers) == (scale, [])
    np.testing.assert_array_equal(store.read(), counts())


def test_fpkm_becomes_tpm(tmp_path: Path) -> None:
    store = open_expression(save(tmp_path, scale="fpkm"))
    assert (store.scale, store.uns["tpm"]) == ("tpm", "rescaled from FPKM")
    np.testing.assert_allclose(store.read().sum(axis=1), 1e6, rtol=1e-5)
    np.testing.assert_allclose(store.read()[0], counts()[0] / counts()[0].sum() * 1e6, rtol=1e-6)


def test_keys_that_are_not_ensembl_ids(tmp_path: Path) -> None:
    symbols = [f"G{i}" for i in range(30)]
    var = gene_table().assign(gene=symbols, ensembl_id=[None, *GENES[1:]], symbol=symbols)
    store = open_expression(save(tmp_path, var=var, layers={"X": Table(counts(), genes=symbols)}, scale="tpm"))
    assert list(store.var.index) == symbols
    assert store.var["ensembl_id"].tolist() == ["", *GENES[1:]]


def test_xena_pair(tmp_path: Path) -> None:
    tpm, reads = tpm_values(), np.floor(tpm_values(seed=3) / 100)
    sources = {
        "X": XenaMatrix(write(tmp_path / "c.gz", matrix_text(np.log2(reads + 1))), "log2_counts_plus_1"),
        "tpm": XenaMatrix(write(tmp_path / "t.gz", matrix_text(np.log2(tpm + 0.001))), "log2_tpm_plus_0.001"),
    }
    genes = [f"ENSG{i:011d}" for i in range(60)]  # the annotation has more genes than the matrix
    path = save(tmp_path, layers=sources, sample_ids=sources["X"].sample_ids, var=gene_table(genes))
    store = open_expression(path)
    np.testing.assert_allclose(store.read(), reads.T, rtol=4e-5)
    np.testing.assert_allclose(store.read("tpm"), tpm.T, rtol=4e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "log2"}, "scale 'log2' of X is not linear"),
        ({"layers": {"X": None}}, "no source for X"),
        (
            {"scale": "tpm", "layers": {"X": Table(counts()), "tpm": Table(counts())}},
            "a TPM source beside X of scale tpm",
        ),
        ({"keep": ["S1"]}, "11 sample names for 1 samples"),
        ({"sample_ids": ["S1", "S1"]}, "samples stand twice in the list to write: S1"),
        ({"sample_ids": []}, "no samples to write"),
        ({"sample_ids": ["S1", "nobody", "none"]}, "2 samples are not in the source of X: nobody, none"),
        ({"var": gene_table(GENES[2:])}, f"2 genes of the expression matrix are not in the table of genes: {GENES[0]}"),
        ({"var": pd.concat([gene_table()] * 2)}, "the table of genes repeats ENSG00000000000"),
        (
            {"layers": {"X": Table(counts()), "tpm": Table(counts()[:9], SAMPLES[:9])}},
            "2 samples are not in the source of tpm: S9",
        ),
        (
            {"layers": {"X": Table(counts()), "tpm": Table(counts()[:, 1:], genes=GENES[1:])}},
            "1 genes of the counts are not in the source of tpm",
        ),
        (
            {"layers": {"X": Table(counts()[:, 1:], genes=GENES[1:]), "tpm": Table(counts())}},
            "1 genes of tpm are not in the source of counts",
        ),
        ({"layers": {"X": Table(counts() * (np.arange(11) != 4)[:, None])}}, "samples without any expression: S4"),
        (
            {"layers": {"X": Table(counts() * (np.arange(11) != 4)[:, None])}, "scale": "fpkm"},
            "samples without any expression: S4",
        ),
    ],
)
def test_refusals_leave_nothing_behind(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        save(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_opening_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no expression store"):
        open_expression(tmp_path)
    path = save(tmp_path)
    meta = json.loads((path / "zarr.json").read_text())
    (path / "zarr.json").write_text(json.dumps(meta | {"attributes": {}}))
    with pytest.raises(UserError, match="is not an expression store"):
        open_expression(path)


def test_a_store_that_does_not_say_its_scale(tmp_path: Path) -> None:
    path = save(tmp_path)
    shutil.rmtree(path / "uns" / "scale")
    with pytest.raises(UserError, match="does not say its scale"):
        open_expression(path)
