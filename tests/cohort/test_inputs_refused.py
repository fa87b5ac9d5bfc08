"""What cannot be embedded: one sentence that says why and what to do."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from handed_in import (
    COUNTS,
    FORMATS,
    GENES,
    KINDS,
    LENGTHS,
    LOGGED,
    SAMPLES,
    TPM,
    ZSCORES,
    G,
    N,
    laid,
    put,
    save,
    table,
)

from bulkprobe.cohort import anndata_file, inputs
from bulkprobe.cohort.inputs import open_input
from bulkprobe.errors import UserError


def spoiled(value: float, base: np.ndarray = COUNTS) -> np.ndarray:
    values = base.astype(np.float64)
    values[4, 6] = value
    return values


WRONG_SCALES: list[tuple[str | None, np.ndarray, str]] = [
    ("counts", LOGGED, r"declared as counts, but the largest value is .*log-transformed"),
    ("counts", ZSCORES, "has a negative value: .*looks like z-scores"),
    ("counts", TPM, "every sample adds up to a million: it looks like TPM"),
    ("counts", spoiled(np.nan), r"has a missing value: nan \(gene {gene}, sample patient_4\)"),
    ("counts", spoiled(np.inf), r"has an infinite value: inf \(gene {gene}, sample patient_4\)"),
    ("counts", spoiled(-3), r"has a negative value: -3 \(gene {gene}, sample patient_4\)"),
    ("tpm", COUNTS, "every value is a whole number: it looks like counts"),
    ("tpm", spoiled(np.nan, TPM), r"missing value: nan \(gene {gene}, sample patient_4\)"),
    ("tpm", np.log1p(TPM), "declared as tpm, but the largest value is"),
    ("fpkm", COUNTS * 1e4, r"adds up to .* where at most 1e\+07 is expected"),
    ("log2_tpm_plus_0.001", TPM, "value above the largest possible.*linear values"),
    ("log2_counts_plus_1", COUNTS, "value above the largest possible.*linear values"),
    ("log1p_tpm", TPM, "value above the largest possible"),
    ("rsem_normalised", spoiled(np.nan), r"missing value: nan \(gene {gene}, sample patient_4\)"),
    ("rsem_normalised", ZSCORES, "% of the values are negative: it looks like z-scores"),
    ("zscore", LOGGED, "no value is negative"),
    (None, TPM, r"does not say its scale, and .* is no count: pass --scale with one of counts, tpm, fpkm, .*zscore"),
    (None, spoiled(-3), r"does not say its scale, and -3 \(gene {gene}, sample patient_4\) is no count: pass --scale"),
    (None, spoiled(np.nan), r"missing value: nan \(gene {gene}, sample patient_4\)"),
    (
        "counts",
        np.where(np.arange(N)[:, None] == 4, 0, COUNTS),
        "samples without any expression.*: patient_4; drop them",
    ),
    ("fpkm", np.where(np.arange(N)[:, None] == 4, 0, TPM), "samples without any expression: patient_4; drop them"),
    ("raw", COUNTS, r"expression scale 'raw' is not known; expected one of counts, tpm"),
]


@pytest.mark.parametrize(("scale", "values", "message"), WRONG_SCALES)
@pytest.mark.parametrize("kind", [*KINDS, "table"])
def test_values_that_are_not_of_the_scale(
    tmp_path: Path, scale: str | None, values: np.ndarray, message: str, kind: str
) -> None:
    if kind == "table":
        path = table(tmp_path / "a.parquet", values)
    else:
        path = save(tmp_path / "a.h5ad", laid(values, kind))
    message = message.replace("{gene}", "GENE0" if kind == "table" else "g6")
    with pytest.raises(UserError, match=message):
        open_input(path, scale, tmp_path / "spool")
    assert not list((tmp_path / "spool").glob("*"))


def test_counts_that_are_whole_only_at_the_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anndata_file, "BLOCK_VALUES", G)
    monkeypatch.setattr(inputs, "FIRST_BLOCKS", 3)
    path = save(tmp_path / "a.h5ad", spoiled(1.5))
    with pytest.raises(
        UserError, match=r"and 1 of its 360 values are no whole numbers, though the first are: pass --sc"
    ):
        open_input(path)
    with open_input(path, "counts") as given:
        assert given.read()[4, 6] == 1.5


def test_a_scale_that_the_file_makes_up(tmp_path: Path) -> None:
    path = save(tmp_path / "a.h5ad", scale="log")
    with pytest.raises(UserError, match=r"uns\['scale'\] is 'log', which is no scale known here: pass --scale"):
        open_input(path)
    path = save(tmp_path / "b.h5ad", scale={"of": np.arange(3)})
    with pytest.raises(UserError, match=r"uns\['scale'\] is .*, which is no scale known here: pass --scale"):
        open_input(path)
    with open_input(path, "counts") as given:
        assert given.scale == "counts"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (COUNTS * 1000, r"a\.h5ad \(layers/tpm\) .*above the largest possible|adds up to"),
        (np.log1p(TPM), r"a\.h5ad \(layers/tpm\) is declared as tpm, but the largest value is"),
        (spoiled(np.nan, TPM), r"a\.h5ad \(layers/tpm\) has a missing value: nan \(gene g6, sample patient_4\)"),
    ],
)
def test_a_tpm_layer_that_is_none(tmp_path: Path, kind: str, values: np.ndarray, message: str) -> None:
    path = save(tmp_path / "a.h5ad", laid(COUNTS, kind), tpm=laid(values, kind))
    with pytest.raises(UserError, match=message):
        open_input(path, "counts", tmp_path / "spool")
    assert not list((tmp_path / "spool").glob("*"))


def test_reads_only_on_genes_of_unknown_length(tmp_path: Path) -> None:
    length = np.where(np.arange(G) < 5, np.nan, LENGTHS)
    values = np.where((np.arange(N)[:, None] == 4) & (np.arange(G) >= 5), 0, COUNTS)
    path = save(tmp_path / "a.h5ad", values, var=GENES.assign(length=length))
    with pytest.raises(UserError, match="without any expression of genes whose length is known: patient_4; drop them"):
        open_input(path)


def test_upper_quartile_of_a_whole_transcriptome(tmp_path: Path) -> None:
    values = np.exp2(np.random.default_rng(0).normal(8, 2, (3, 15_000)))
    for factor in (1, 0.01):
        data = anndata.AnnData((values * factor).astype(np.float32))
        data.var_names = [f"ENSG{i:011d}" for i in range(15_000)]
        put(tmp_path / f"{factor}.h5ad", data)
    open_input(tmp_path / "1.h5ad", "rsem_normalised").close()
    with pytest.raises(UserError, match="upper quartile of a typical sample is"):
        open_input(tmp_path / "0.01.h5ad", "rsem_normalised")


@pytest.mark.parametrize("name", FORMATS)
def test_names_of_samples(tmp_path: Path, name: str) -> None:
    twice = pd.DataFrame(index=["a", "b", "b", *SAMPLES[3:]])
    with pytest.raises(UserError, match=rf"{name} has repeated samples: b; keep one of each"):
        open_input(save(tmp_path / name, obs=twice))
    shutil.rmtree(tmp_path / name, ignore_errors=True)
    unnamed = pd.DataFrame(index=["a", "", " ", *SAMPLES[3:]])
    with pytest.raises(UserError, match=rf"{name} has samples without a name \(number 2, 3\): name each of them"):
        open_input(save(tmp_path / name, obs=unnamed))


def test_names_of_samples_in_tables(tmp_path: Path) -> None:
    def fails(name: str, text: str, message: str) -> None:
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=message):
            open_input(tmp_path / name)

    fails("a.tsv", "gene\ta\tb\tb\nTP53\t90\t1\t1\nEGFR\t90\t1\t1\nKRAS\t9\t1\t1\n", "repeated samples: b; keep one")
    fails("b.csv", "id,TP53,EGFR,KRAS\na,90,1,1\na,90,2,2\n", "repeated samples: a; keep one of each")
    fails("c.csv", "id,TP53,EGFR,KRAS\na,90,1,1\n,90,2,2\n", r"samples without a name \(number 2\)")
    fails("d.csv", "id,TP53,EGFR,KRAS\na,90,1\n", r"line 2: 3 fields where the header has 4")
    fails(
        "e.csv",
        "id,x,y\na,1,2\nb,1,2\n",
        "neither of its axes look like genes .*build a cohort with `bulkprobe cohort`",
    )
    columns = {"id": ["a", None], "TP53": [99.0, 1.0], "EGFR": [1.0, 2.0], "KRAS": [1.0, 5.0]}
    pq.write_table(pa.table(columns), tmp_path / "f.parquet")
    with pytest.raises(UserError, match=r"f\.parquet has samples without a name \(number 2\)"):
        open_input(tmp_path / "f.parquet")


def test_what_is_something_else(tmp_path: Path) -> None:
    def fails(name: str, message: str, content: bytes | None = b"x") -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message) as refused:
            open_input(tmp_path / name, None, tmp_path / "spool")
        assert "\n" not in str(refused.value)

    fails(
        "none.h5ad",
        "none.h5ad is not a cohort folder, nor AnnData .*there is nothing at .*none.h5ad, correct",
        None,
    )
    fails("a.rds", "kind of table not known")
    fails("a.h5ad", "a.h5ad cannot be read as AnnData .*cut off, damaged or something else")
    fails("b.h5ad", "b.h5ad cannot be read as AnnData", b"")
    fails("a.parquet", "is not a Parquet file")
    fails("a.zarr", "a.zarr is a file: expected a folder")
    fails("a.tsv.gz", "is truncated or damaged gzip", gzip.compress(b"id\tTP53\n" + b"a\t1\n" * 99)[:-9])
    fails("p.csv", "is a web page", b"<!DOCTYPE html><html>")
    (tmp_path / "d.h5ad").mkdir()
    fails("d.h5ad", "d.h5ad is a folder: expected a file", None)
    (tmp_path / "d.zarr").mkdir()
    fails("d.zarr", "d.zarr cannot be read as AnnData", None)
    (tmp_path / "folder").mkdir()
    fails("folder", "folder is not a cohort folder", None)
    (tmp_path / "e.zarr").mkdir()
    zarr.create_array(str(tmp_path / "e.zarr" / "embedding"), shape=(3, 2), dtype="f4")
    zarr.open_group(str(tmp_path / "e.zarr"), mode="a")
    fails("e.zarr", "e.zarr has no obs: expected AnnData with obs, var and X", None)
    with h5py.File(tmp_path / "old.h5ad", "w") as file:
        file["X"], file["obs"], file["var"] = COUNTS, np.arange(N), np.arange(G)
    fails("old.h5ad", "obs is no table of a current AnnData", None)
    assert not (tmp_path / "spool").exists()


def change(path: Path, place: str, **attributes: Any) -> Any:
    """Open an .h5ad to damage it."""
    file = h5py.File(path, "r+")
    file[place].attrs.update(attributes)
    return file


def test_matrices_that_cannot_be_read(tmp_path: Path) -> None:
    def fails(message: str) -> None:
        with pytest.raises(UserError, match=message):
            open_input(path)

    path = put(tmp_path / "a.h5ad", anndata.AnnData(obs=pd.DataFrame(index=SAMPLES), var=GENES, layers={"raw": COUNTS}))
    fails("a.h5ad has no X: expected AnnData with obs, var and X; its layers: raw")
    path = put(tmp_path / "b.h5ad", anndata.AnnData(np.zeros((0, 3), np.float32)))
    fails("b.h5ad is an empty table: 0 samples and 3 genes")
    path = save(tmp_path / "c.h5ad")
    change(path, "X", **{"encoding-type": "awkward-array"}).close()
    fails("c.h5ad: X is stored as 'awkward-array', expected a dense, CSR or CSC matrix")
    path = save(tmp_path / "d.h5ad")
    with change(path, "X") as file:
        del file["X"]
        file["X"] = np.full((N, G), "a", dtype="S1")
    fails("d.h5ad: X holds values of type .*S1, expected numbers")
    path = save(tmp_path / "e.h5ad")
    with change(path, "X") as file:
        del file["X"]
        file["X"] = COUNTS[:7]
    fails(r"e.h5ad: X is incomplete \(shape \(7, 30\), obs and var have \(12, 30\)")
    path = save(tmp_path / "f.h5ad")
    change(path, "obs", **{"encoding-version": "99.0"}).close()
    fails("f.h5ad: obs cannot be read .*write it again with a current anndata")


@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_damaged_sparse_matrices(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path / "a.h5ad", laid(COUNTS, kind))
    with change(path, "X") as file:
        file["X/indices"][7] = 10_000
    with pytest.raises(UserError, match=r"a.h5ad: X is damaged \(sparse indices of lines 0 to"):
        open_input(path)
    with change(path, "X") as file:
        file["X/indptr"][-1] = 5
    with pytest.raises(UserError, match=r"a.h5ad: X is incomplete"):
        open_input(path)
    with change(path, "X") as file:
        del file["X/data"]
    with pytest.raises(UserError, match=r"a.h5ad cannot be read as AnnData \(.*data"):
        open_input(path)


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FORMATS)
def test_truncated_files(tmp_path: Path, name: str, kind: str) -> None:
    path = save(tmp_path / name, laid(COUNTS, kind))
    place = path / "X" / ("" if kind == "dense" else "data")
    hidden = [
        file for file in sorted(place.rglob("*")) if file.is_file() and file.name[0] != "." and "json" not in file.name
    ]
    cut(hidden[0] if path.is_dir() else path)
    with pytest.raises(UserError, match=rf"{name} cannot be read as AnnData"):
        open_input(path, "counts")
    if path.is_dir():
        hidden[0].unlink()
        with pytest.raises(UserError, match=r"every value is 0|X is incomplete"):
            open_input(path, "counts")


def test_damage_within_compressed_values(tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    anndata.AnnData(COUNTS.astype(np.float32), obs=pd.DataFrame(index=SAMPLES), var=GENES).write_h5ad(
        path, compression="gzip"
    )
    with h5py.File(path, "r") as file:
        found = file["X"].id.get_chunk_info(0)
    with path.open("r+b") as handle:
        handle.seek(found.byte_offset + 20)
        handle.write(bytes(range(100, 150)))
    with pytest.raises(UserError, match=r"a.h5ad cannot be read as AnnData \("):
        open_input(path)
