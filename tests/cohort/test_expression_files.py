"""Tables of a lab: kinds, orientations, keys, joins, scales."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from matrices import stored

from bulkprobe.cohort.expression_files import read_lab_expression
from bulkprobe.cohort.store import open_expression, write_expression
from bulkprobe.errors import UserError

MARKERS = ["TP53", "EGFR", "KRAS", "ACTB", "GAPDH"]
SYMBOLS = MARKERS + [f"GENE{i}" for i in range(35)]
ENSEMBL = [f"ENSG{i:011d}.{i % 5 + 1}" for i in range(40)]
SAMPLES = [f"patient_{i}" for i in range(9)]


def counts(n_samples: int = 9, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(np.exp2(rng.normal(6, 2, 40)), (n_samples, 40)).astype(np.float64)


def frame(values: np.ndarray, genes: list[str] = SYMBOLS, samples: list[str] = SAMPLES) -> pd.DataFrame:
    return pd.DataFrame(values.T, index=pd.Index(genes, name="gene"), columns=samples)


def put(path: Path, table: pd.DataFrame) -> Path:
    if path.suffix == ".parquet":
        table.reset_index(names=table.index.name or "sample").to_parquet(path, index=False)
    else:
        table.to_csv(path, sep="," if ".csv" in path.suffixes else "\t")
    return path


@pytest.mark.parametrize("orientation", ["auto", "given"])
@pytest.mark.parametrize("genes_in_rows", [True, False])
@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.tsv.gz", "a.csv.gz", "a.parquet"])
def test_every_table_gives_the_same(tmp_path: Path, name: str, genes_in_rows: bool, orientation: str) -> None:
    table = frame(counts())
    path = put(tmp_path / name, table if genes_in_rows else table.T)
    if orientation == "given":
        orientation = "genes_by_samples" if genes_in_rows else "samples_by_genes"
    source = read_lab_expression([path], "counts", orientation)
    assert source.sample_ids == SAMPLES
    store = stored(tmp_path, source)
    assert store.var["symbol"].tolist() == SYMBOLS
    assert store.var["ensembl_id"].tolist() == [""] * 40
    np.testing.assert_array_equal(store.read(), counts())


def sparse_or_dense(kind: str) -> Any:
    values = counts().astype(np.float32)
    return {"dense": values, "csr": scipy.sparse.csr_matrix(values), "csc": scipy.sparse.csc_matrix(values)}[kind]


@pytest.mark.parametrize("kind", ["dense", "csr", "csc"])
def test_h5ad(tmp_path: Path, kind: str) -> None:
    data = anndata.AnnData(
        sparse_or_dense("dense") * 2,
        obs=pd.DataFrame(index=SAMPLES),
        var=pd.DataFrame({"ensembl_id": ENSEMBL, "length": 700.0}, index=SYMBOLS),
    )
    data.layers["raw"] = sparse_or_dense(kind)
    data.write_h5ad(tmp_path / "a.h5ad")
    source = read_lab_expression([tmp_path / "a.h5ad"], "counts", layer="raw")
    store = stored(tmp_path, source)
    np.testing.assert_array_equal(store.read(), counts())
    assert store.var["ensembl_id"].tolist() == [gene.split(".")[0] for gene in ENSEMBL]
    assert store.var["symbol"].tolist() == SYMBOLS
    assert (store.var["length"] == 700).all()
    with pytest.raises(UserError, match=r"has no layers/none.*its layers: raw"):
        read_lab_expression([tmp_path / "a.h5ad"], "counts", layer="none")


def test_zarr_reads_our_own_store(tmp_path: Path) -> None:
    first = stored(tmp_path, read_lab_expression([put(tmp_path / "a.tsv", frame(counts(), ENSEMBL))], "counts"))
    again = stored(tmp_path / "again", read_lab_expression([first.path], "counts"))
    np.testing.assert_array_equal(again.read(), counts())
    pd.testing.assert_frame_equal(again.var, first.var)


def test_r_style_tables(tmp_path: Path) -> None:
    table = frame(counts())
    lines = [",".join(f'"{s}"' for s in SAMPLES)]
    lines += [
        f'"{gene}",' + ",".join(str(x) for x in row) for gene, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    (tmp_path / "a.csv").write_text("\r\n".join(lines) + "\r\n")
    source = read_lab_expression([tmp_path / "a.csv"], "counts")
    assert source.sample_ids == SAMPLES
    np.testing.assert_array_equal(stored(tmp_path, source).read(), counts())


def test_gene_table_maps_symbols(tmp_path: Path) -> None:
    path = put(tmp_path / "a.tsv", frame(counts()))
    genes = pd.DataFrame({"symbol": SYMBOLS[:30], "ensembl": ENSEMBL[:30], "length_bp": np.arange(30) + 100.0})
    genes.to_csv(tmp_path / "genes.tsv", sep="\t", index=False)
    for given in (genes, tmp_path / "genes.tsv"):
        var = stored(tmp_path, read_lab_expression([path], "counts", genes=given)).var
        assert var.index.tolist() == [g.split(".")[0] for g in ENSEMBL[:30]] + SYMBOLS[30:]
        assert var["length"].tolist()[:30] == (np.arange(30) + 100.0).tolist()
        assert var["length"].isna().sum() == 10
    with pytest.raises(UserError, match=r"table of genes .*none\.tsv is missing"):
        read_lab_expression([path], "counts", genes=tmp_path / "none.tsv")
    with pytest.raises(UserError, match="neither symbols nor Ensembl ids"):
        read_lab_expression([path], "counts", genes=genes[["length_bp"]])


def test_known_symbols_decide_the_orientation(tmp_path: Path) -> None:
    odd = [f"GENE{i}" for i in range(40)]
    path = put(tmp_path / "a.tsv", frame(counts(), odd))
    with pytest.raises(UserError, match=r"neither of its axes look like genes.*set orientation"):
        read_lab_expression([path], "counts")
    source = read_lab_expression([path], "counts", genes=pd.DataFrame({"symbol": odd}))
    assert source.sample_ids == SAMPLES
    both = put(tmp_path / "b.tsv", frame(counts(), SYMBOLS, ENSEMBL[:9]))
    with pytest.raises(UserError, match="both of its axes look like genes"):
        read_lab_expression([both], "counts")


def test_several_files_are_joined(tmp_path: Path) -> None:
    one, two = counts(4, 1), counts(5, 2)
    order = np.random.default_rng(0).permutation(40)[:33]
    paths = [
        put(tmp_path / "one.tsv", frame(one, SYMBOLS, SAMPLES[:4])),
        put(tmp_path / "two.parquet", frame(two[:, order], [SYMBOLS[i] for i in order], SAMPLES[4:]).T),
    ]
    source = read_lab_expression(paths, "counts")
    assert source.sample_ids == SAMPLES
    shared = sorted(order)
    whole = np.vstack([one, two])[:, shared]
    keep = ["patient_7", "patient_0", "patient_4", "patient_3", "patient_5"]
    path = write_expression(tmp_path / "s", sample_ids=keep, var=source.var, layers={"X": source}, scale="counts")
    store = open_expression(path)
    assert store.var["symbol"].tolist() == [SYMBOLS[i] for i in shared]
    np.testing.assert_array_equal(store.read(), whole[[7, 0, 4, 3, 5]])
    assert source.notes["genes_not_in_every_file"] == 7
    with pytest.raises(UserError, match="samples stand in more than one table: patient_0"):
        read_lab_expression([paths[0], paths[0]], "counts")
    other = put(tmp_path / "three.tsv", frame(two, ENSEMBL, SAMPLES[4:]))
    with pytest.raises(UserError, match="no gene in common"):
        read_lab_expression([paths[0], other], "counts")


def test_symbol_and_entrez_keys(tmp_path: Path) -> None:
    genes = [
        "?|100130426",
        "?|10357",
        "SLC35E2|728661",
        "SLC35E2|9906",
        *(f"{s}|{i}" for i, s in enumerate(SYMBOLS[:36])),
    ]
    values = counts()
    values[:, 2], values[:, 3] = 5, 60
    source = read_lab_expression([put(tmp_path / "a.tsv", frame(values, genes))], "counts")
    store = stored(tmp_path, source)
    assert store.var["symbol"].tolist() == ["SLC35E2", *SYMBOLS[:36]]
    np.testing.assert_array_equal(store.read(), values[:, 3:])
    assert source.notes["rows_without_symbol_dropped"] == 2
    assert source.notes["rows_of_repeated_genes_dropped"] == 1


def test_repeated_keys(tmp_path: Path) -> None:
    genes = [*SYMBOLS[:39], "TP53"]
    with pytest.raises(UserError, match=r"repeated genes: TP53"):
        read_lab_expression([put(tmp_path / "a.tsv", frame(counts(), genes))], "counts")
    with pytest.raises(UserError, match=r"repeated genes: TP53"):
        read_lab_expression([put(tmp_path / "t.tsv", frame(counts(), genes).T)], "counts")
    with pytest.raises(UserError, match="repeated samples: patient_0"):
        read_lab_expression(
            [put(tmp_path / "b.tsv", frame(counts(), SYMBOLS, ["patient_0"] * 2 + SAMPLES[2:]).T)], "counts"
        )
    only = frame(counts(), [f"?|{i}" for i in range(40)])
    with pytest.raises(UserError, match="no usable gene keys"):
        read_lab_expression([put(tmp_path / "c.tsv", only)], "counts", "genes_by_samples")


def test_log_scales_are_inverted(tmp_path: Path) -> None:
    tpm = counts() / counts().sum(axis=1, keepdims=True) * 1e6
    for scale, values, expected in (
        ("log2_tpm_plus_0.001", np.log2(tpm + 0.001), tpm),
        ("log1p_tpm", np.log1p(tpm), tpm),
        ("log2_counts_plus_1", np.log2(counts() + 1), counts()),
        ("tpm", tpm, tpm),
    ):
        source = read_lab_expression([put(tmp_path / "a.tsv", frame(values))], scale)
        store = stored(tmp_path, source)
        assert store.scale == ("counts" if "counts" in scale else "tpm")
        np.testing.assert_allclose(store.read(), expected, rtol=1e-5, atol=1e-4)


def test_fpkm_is_rescaled(tmp_path: Path) -> None:
    store = stored(tmp_path, read_lab_expression([put(tmp_path / "a.tsv", frame(counts() * 7.3))], "fpkm"))
    np.testing.assert_allclose(store.read().sum(axis=1), 1e6, rtol=1e-5)
    assert store.scale == "tpm"


def test_rsem_normalised(tmp_path: Path) -> None:
    values = counts()
    values[3, 7], values[2, 4] = np.nan, -0.25
    source = read_lab_expression([put(tmp_path / "a.tsv", frame(values))], "rsem_normalised")
    store = stored(tmp_path, source)
    assert source.notes["genes_with_missing_values_dropped"] == 1
    assert store.var["symbol"].tolist() == [s for i, s in enumerate(SYMBOLS) if i != 7]
    expected = np.delete(np.clip(values, 0, None), 7, axis=1)
    np.testing.assert_allclose(store.read(), expected)
    assert store.layers == []
    values[:] = np.nan
    with pytest.raises(UserError, match="every gene has a missing value"):
        stored(
            tmp_path,
            read_lab_expression([put(tmp_path / "a.tsv", frame(values))], "rsem_normalised", "genes_by_samples"),
        )


def test_rsem_upper_quartile(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = np.exp2(rng.normal(8, 2, (3, 15_000)))
    genes = [f"ENSG{i:011d}" for i in range(15_000)]
    good = put(tmp_path / "a.parquet", frame(values, genes, SAMPLES[:3]))
    stored(tmp_path, read_lab_expression([good], "rsem_normalised"))
    bad = put(tmp_path / "b.parquet", frame(values / 100, genes, SAMPLES[:3]))
    with pytest.raises(UserError, match="upper quartile of a typical sample is"):
        stored(tmp_path, read_lab_expression([bad], "rsem_normalised"))


def spoiled(value: float) -> np.ndarray:
    values = counts()
    values[4, 6] = value
    return values


LOGGED = np.log2(counts() + 1)
ZSCORES = (LOGGED - LOGGED.mean(axis=0)) / (LOGGED.std(axis=0) + 1e-9)
TPM = counts() / counts().sum(axis=1, keepdims=True) * 1e6


@pytest.mark.parametrize(
    ("scale", "values", "message"),
    [
        ("counts", LOGGED, r"declared as counts, but the largest value is .*log-transformed"),
        ("counts", ZSCORES, r"negative value: .*looks like z-scores"),
        ("counts", TPM, "every sample adds up to a million: it looks like TPM"),
        ("counts", spoiled(np.nan), r"missing value: nan \(gene GENE1, sample patient_4\)"),
        ("counts", spoiled(np.inf), r"infinite value: inf \(gene GENE1, sample patient_4\)"),
        ("counts", spoiled(-3), r"negative value: -3 \(gene GENE1, sample patient_4\)"),
        ("tpm", np.log2(TPM + 1), r"declared as tpm, but the largest value is .*log-transformed"),
        ("tpm", counts() * 1000, r"a value above the largest|adds up to .* where about a million is expected"),
        ("tpm", spoiled(np.nan), "missing value"),
        ("fpkm", LOGGED, "declared as fpkm, but the largest value is"),
        ("fpkm", counts() * 1e4, r"adds up to .* where at most 1e\+07 is expected"),
        ("log2_tpm_plus_0.001", TPM, "value above the largest possible.*linear values"),
        ("log2_counts_plus_1", counts(), "value above the largest possible.*linear values"),
        ("log2_counts_plus_1", ZSCORES, "negative value"),
        ("log1p_tpm", TPM, "value above the largest possible"),
        ("rsem_normalised", ZSCORES, "% of the values are negative: it looks like z-scores"),
        ("rsem_normalised", spoiled(np.inf), "infinite value"),
        ("rsem_normalised", LOGGED, "declared as rsem_normalised, but the largest value is .*log-transformed"),
        ("tpm", counts(), "declared as tpm, but every value is a whole number: it looks like counts"),
        ("fpkm", counts(), "declared as fpkm, but every value is a whole number: it looks like counts"),
        ("counts", TPM * np.linspace(0.6, 0.99, len(TPM))[:, None], "adds up to nearly a million: it looks like TPM"),
        ("log2_tpm_plus_0.001", ZSCORES, "less than 2 TPM: it looks like z-scores"),
        ("log2_tpm_plus_0.001", np.log2(counts() + 1), "no value is negative and .* are 0: it looks like log2"),
        ("counts", np.zeros_like(TPM), "every value is 0; expected expression"),
        ("zscore", counts(), "no value is negative: it looks like linear values"),
        ("zscore", np.log2(TPM + 0.001) - 3, "mean of a typical gene is .* away from 0"),
        ("zscore", spoiled(np.nan), "missing value"),
    ],
)
@pytest.mark.parametrize("genes_in_rows", [True, False])
def test_values_that_are_not_of_the_scale(
    tmp_path: Path, scale: str, values: np.ndarray, message: str, genes_in_rows: bool
) -> None:
    table = frame(values)
    path = put(tmp_path / "a.parquet", table if genes_in_rows else table.T)
    with pytest.raises(UserError, match=message):
        stored(tmp_path, read_lab_expression([path], scale))


def test_zscore_passes(tmp_path: Path) -> None:
    store = stored(tmp_path, read_lab_expression([put(tmp_path / "a.parquet", frame(ZSCORES))], "zscore"))
    np.testing.assert_allclose(store.read(), ZSCORES, rtol=1e-6)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    def fails(name: str, message: str, content: bytes | None = b"x", **options: Any) -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_lab_expression([tmp_path / name], "counts", **options)

    fails("none.tsv", "is missing", None)
    fails("a.rds", "kind of table not known")
    fails("a.parquet", "is not a Parquet file")
    fails("a.h5ad", "cannot be read as AnnData")
    fails("a.tsv", "has no layers", layer="raw")
    fails("a.tsv", "one column in its header")
    fails("a.tsv", "orientation 'up' is not known", orientation="up")
    put(tmp_path / "t.parquet", frame(counts()).astype(str))
    fails("t.parquet", "10 columns that are not numbers", None)
    put(tmp_path / "e.parquet", frame(counts())[:0])
    fails("e.parquet", "is an empty table", None)
    (tmp_path / "z.zarr").mkdir()
    fails("z.zarr", "cannot be read as AnnData|has no X", None)
    anndata.AnnData(np.zeros((0, 3), np.float32)).write_h5ad(tmp_path / "n.h5ad")
    fails("n.h5ad", "is an empty table: 0 samples", None)
    twice = anndata.AnnData(counts()[:, :5].astype(np.float32), obs=pd.DataFrame(index=SAMPLES))
    twice.var_names = MARKERS
    twice.obs_names = ["a", *["b"] * 8]
    twice.write_h5ad(tmp_path / "d.h5ad")
    fails("d.h5ad", "repeated samples: b", None)
    with pytest.raises(UserError, match="expression scale 'raw' is not known"):
        read_lab_expression([tmp_path / "a.tsv"], "raw")
    with pytest.raises(UserError, match="no expression table given"):
        read_lab_expression([], "counts")


def test_text_in_a_table_is_named(tmp_path: Path) -> None:
    table = frame(counts()).astype(object)
    table.iloc[0, 0] = "many"
    path = put(tmp_path / "a.tsv", table)
    with pytest.raises(UserError, match=r"line 2: 'many' where a number is expected \(row TP53, column patient_0\)"):
        stored(tmp_path, read_lab_expression([path], "counts"))
