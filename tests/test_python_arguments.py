"""`bulkprobe.embed` and its like called with what does not fit, and AnnData whose counts or genes lie elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

import bulkprobe
from bulkprobe import UserError
from encoders.made import made_anndata, made_counts, made_genes

GENES = made_genes(250, seed=1)
COUNTS = made_counts(7, 250, seed=2)
MODEL = "expression"


def made() -> anndata.AnnData:
    return made_anndata(GENES, COUNTS)


@pytest.fixture(autouse=True)
def fixture_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# ---------------------------------------------------------------- where counts and genes lie


def on_the_log() -> anndata.AnnData:
    adata = made()
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X)
    adata.uns["scale"] = "log1p_tpm"  # of X, not of the layer
    return adata


@pytest.mark.parametrize("view", [False, True])
def test_a_layer_is_read_in_place_of_x(view: bool) -> None:
    adata = on_the_log()
    before = adata.copy()
    adata = adata[:] if view else adata
    vectors = bulkprobe.embed(adata, MODEL, layer="counts")
    assert vectors.tobytes() == bulkprobe.embed(made(), MODEL).tobytes()
    np.testing.assert_array_equal(adata.obsm["X_expression"], vectors)
    np.testing.assert_array_equal(adata.X, before.X)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.var, before.var)
    assert list(adata.layers) == ["counts"]


def test_a_layer_of_a_file_is_read_and_the_file_left_alone(tmp_path: Path) -> None:
    on_the_log().write_h5ad(tmp_path / "x.h5ad")
    before = (tmp_path / "x.h5ad").read_bytes()
    adata = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r+")
    assert bulkprobe.embed(adata, MODEL, layer="counts").tobytes() == bulkprobe.embed(made(), MODEL).tobytes()
    assert adata.isbacked
    adata.file.close()
    assert (tmp_path / "x.h5ad").read_bytes() == before


def test_genes_and_transcripts_come_from_a_table(tmp_path: Path) -> None:
    symbols = [f"A{number}" for number in range(len(GENES))]
    table = GENES.assign(symbol=symbols)[["symbol", "ensembl_id", "length"]]
    table.to_csv(tmp_path / "genes.csv", index=False)
    named = anndata.AnnData(COUNTS, made().obs, pd.DataFrame(index=symbols))
    options = {"release": "untrained"}
    with pytest.raises(UserError, match="no gene of the input has an Ensembl id"):
        bulkprobe.embed(named, "geneformer", **options)
    vectors = bulkprobe.embed(named, "geneformer", genes=tmp_path / "genes.csv", **options)
    same = anndata.AnnData(COUNTS, made().obs, table.set_index("symbol", drop=False))
    assert vectors.tobytes() == bulkprobe.embed(same, "geneformer", **options).tobytes()

    (tmp_path / "S1").mkdir()
    rows = [f"T{n}\t900\t700\t{n + 1.25}\t{10 * n + 10}" for n in range(40)]
    (tmp_path / "S1" / "quant.sf").write_text("\n".join(["Name\tLength\tEffectiveLength\tTPM\tNumReads", *rows]) + "\n")
    (tmp_path / "tx2gene.tsv").write_text("".join(f"T{n}\tENSG{n // 2:011d}\n" for n in range(40)))
    found = bulkprobe.embed(tmp_path, MODEL, transcripts=tmp_path / "tx2gene.tsv")
    numbers = np.arange(20, dtype=np.float32)[None, :]
    ids = pd.Index([f"ENSG{n:011d}" for n in range(20)])
    summed = anndata.AnnData(40 * numbers + 30, pd.DataFrame(index=["S1"]), pd.DataFrame(index=ids))
    summed.layers["tpm"] = 4 * numbers + 3.5
    assert found.tobytes() == bulkprobe.embed(summed, MODEL).tobytes()


def test_a_layer_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no layer 'count', expected one of: counts$"):
        bulkprobe.embed(on_the_log(), MODEL, layer="count")
    with pytest.raises(UserError, match=r"layer is 'counts', but x.h5ad is a path"):
        bulkprobe.embed("x.h5ad", MODEL, layer="counts")
    adata = on_the_log()
    del adata.uns["scale"]
    with pytest.raises(UserError, match=r"is no count: .*layer= for another matrix"):
        bulkprobe.embed(adata, MODEL)


def of_10x(adata: anndata.AnnData) -> pd.DataFrame:
    return pd.DataFrame({"gene_ids": adata.var.ensembl_id.to_numpy()}, index=adata.var.symbol.to_numpy())


def of_cellxgene(adata: anndata.AnnData) -> pd.DataFrame:
    return pd.DataFrame({"feature_name": adata.var.symbol.astype("category").to_numpy()}, index=adata.var.ensembl_id)


def of_categories(adata: anndata.AnnData) -> pd.DataFrame:
    return adata.var.astype({"ensembl_id": "category", "symbol": "category"})


def with_versions(adata: anndata.AnnData) -> pd.DataFrame:
    return pd.DataFrame({"symbol": adata.var.symbol.to_numpy()}, index=[f"{name}.7" for name in adata.var.ensembl_id])


@pytest.mark.parametrize("var", [of_10x, of_cellxgene, of_categories, with_versions])
@pytest.mark.parametrize("model", ["geneformer", "scgpt"])  # by Ensembl id, by symbol
def test_genes_are_found_wherever_var_names_them(model: str, var: Callable[[anndata.AnnData], pd.DataFrame]) -> None:
    adata = made()
    genes = var(adata).rename_axis(None)
    adata = anndata.AnnData(adata.X.astype(np.int64), adata.obs, genes)
    vectors = bulkprobe.embed(adata, model, release="untrained")
    assert vectors.tobytes() == bulkprobe.embed(made(), model, release="untrained").tobytes()


# ---------------------------------------------------------------- arguments that do not fit


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": ["pooling"]}, r"options is \['pooling'\], expected a mapping"),
        ({"device": "gpu"}, "device is 'gpu', expected cpu, cuda or"),
        ({"precision": "float16"}, "precision is 'float16', expected float32 or bfloat16"),
        ({"batch_size": 0}, "batch_size is 0, expected a whole number of at least 1"),
        ({"batch_size": -3}, "batch_size is -3, expected"),
        ({"batch_size": "2"}, "batch_size is '2', expected"),
        ({"key_added": ""}, "key_added is '', expected a name for obsm"),
        ({"key_added": 3}, "key_added is 3, expected a name for obsm"),
        ({"scale": "cpm"}, "expression scale 'cpm' is not known"),
        ({"encoder": None}, "there is no encoder None; known: "),
        ({"like": "gone.npz"}, "gone.npz"),
    ],
)
def test_an_argument_that_does_not_fit_is_one_sentence(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    adata = made()
    with pytest.raises(UserError, match=message) as said:
        bulkprobe.embed(adata, **{"encoder": MODEL, **arguments})
    assert "\n" not in str(said.value)
    assert not list(adata.obsm)
    assert list(tmp_path.iterdir()) == []


def test_notes_of_somebody_else_are_not_overwritten() -> None:
    adata = made()
    adata.uns["bulkprobe"] = "mine"
    with pytest.raises(UserError, match=r"uns\['bulkprobe'\] of the AnnData is of type str"):
        bulkprobe.embed(adata, MODEL)
    with pytest.raises(UserError, match=r"there are none; bulkprobe.embed writes them"):
        bulkprobe.predict("probes.npz", adata)
    assert adata.uns["bulkprobe"] == "mine"


def test_a_folder_that_is_no_store_is_never_replaced(tmp_path: Path) -> None:
    mine, file = tmp_path / "results", tmp_path / "file.zarr"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    file.write_text("mine")
    with pytest.raises(UserError, match=r"results is no embedding store \(it holds thesis.txt\) and would be replaced"):
        bulkprobe.embed(made(), MODEL, output=mine)
    with pytest.raises(UserError, match=r"file.zarr is a file: give the name of a new folder"):
        bulkprobe.embed(made(), MODEL, output=file)
    assert (mine / "thesis.txt").read_text() == "years of work"
    assert file.read_text() == "mine"
    # An older store is replaced, and a finished one of the same input is left as it is.
    first = bulkprobe.embed(made(), MODEL, output=tmp_path / "mine.zarr")
    other = bulkprobe.embed(made()[:3], MODEL, output=tmp_path / "mine.zarr")
    assert other.tobytes() == first[:3].tobytes() == bulkprobe.read_store("mine.zarr").embedding.tobytes()


def test_an_embedding_like_another_takes_over_its_options(tmp_path: Path) -> None:
    bulkprobe.embed(made(), "random_projection", options={"width": 8}, output=tmp_path / "first.zarr")
    adata = made()
    vectors = bulkprobe.embed(adata, "random_projection", like=tmp_path / "first.zarr")
    assert vectors.tobytes() == bulkprobe.read_store("first.zarr").embedding.tobytes()
    assert adata.uns["bulkprobe"]["X_random_projection"]["options"] == {"width": 8}


@pytest.mark.parametrize("given", [None, "lab.yaml", ["counts.tsv"]])
def test_a_cohort_is_described_by_a_mapping(given: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"files is of type .*, expected a mapping"):
        bulkprobe.build_cohort(given, tmp_path / "cohort")
    with pytest.raises(UserError, match="rules is of type list, expected a mapping"):
        bulkprobe.build_cohort({"expression": "counts.tsv"}, tmp_path / "cohort", rules=[1])  # type: ignore[arg-type]
