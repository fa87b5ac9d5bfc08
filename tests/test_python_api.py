"""`import bulkprobe`: AnnData in memory, backed, views and paths; the numbers of the command; what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import yaml

import bulkprobe
from bulkprobe import cli, notebook
from bulkprobe.errors import UserError
from bulkprobe.params import SHIPPED
from bulkprobe.store import read_store
from bulkprobe.untrained import write_untrained
from encoders.made import made_anndata, made_counts, made_genes, tpm_of
from workspace import inside, shared_workspace

TOP = Path(__file__).resolve().parents[1]
GENES = made_genes(250, seed=1)
COUNTS = made_counts(7, 250, seed=2)
MODEL = "scgpt"
Change = Callable[[anndata.AnnData], anndata.AnnData]


def made() -> anndata.AnnData:
    """Seven samples of counts, with gene lengths."""
    return made_anndata(GENES, COUNTS)


@pytest.fixture(name="place", scope="module")
def fixture_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside any project with cohort.h5ad, a checkpoint, and what the command makes of them: cli.zarr."""
    place = tmp_path_factory.mktemp("api")
    made().write_h5ad(place / "cohort.h5ad")
    (place / "checkpoint").mkdir()
    write_untrained(MODEL, place / "checkpoint", GENES, 0)
    arguments = ["--input", "cohort.h5ad", "--output", "cli.zarr", "--checkpoint", "checkpoint", "--set", "draws=2"]
    with inside(place, "embed", MODEL, *arguments), pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    return place


@pytest.fixture(autouse=True)
def fixture_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def embed(place: Path, source: Any, **options: Any) -> Any:
    return bulkprobe.embed(source, MODEL, checkpoint=place / "checkpoint", options={"draws": 2}, **options)


def test_importing_the_package_imports_nothing_else() -> None:
    heavy = {"numpy", "pandas", "torch", "anndata", "zarr", "bulkprobe.notebook"}
    code = f"import sys, bulkprobe; dir(bulkprobe); print(*({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(TOP / "src")}, capture_output=True)
    assert (done.returncode, done.stdout.split()) == (0, [])


def test_what_is_public_is_the_same_everywhere() -> None:
    assert sorted(bulkprobe.__all__) == sorted(notebook.__all__)
    assert set(bulkprobe.__all__) <= set(dir(bulkprobe))
    stub = (TOP / "src/bulkprobe/__init__.pyi").read_text(encoding="utf-8")
    assert f"import {', '.join(bulkprobe.__all__)}\n" in stub
    for name in bulkprobe.__all__:
        found = getattr(bulkprobe, name)
        assert found is getattr(notebook, name)
        assert found.__doc__
        if not isinstance(found, type):
            assert "Example:" in found.__doc__
    assert (TOP / "src/bulkprobe/py.typed").is_file()
    with pytest.raises(AttributeError, match="has no attribute 'encode'"):
        bulkprobe.encode  # noqa: B018


def test_the_settings_that_are_shipped_are_the_projects_own() -> None:
    assert SHIPPED.read_bytes() == (TOP / "params.yaml").read_bytes()


# ---------------------------------------------------------------- the same numbers


def test_an_anndata_gets_what_the_command_writes(place: Path) -> None:
    adata, theirs = made(), read_store(place / "cli.zarr")
    before = adata.copy()
    vectors = embed(place, adata)
    assert vectors.dtype == np.float32
    assert vectors.tobytes() == theirs.embedding.tobytes()
    np.testing.assert_array_equal(adata.obsm["X_scgpt"], vectors)
    notes = adata.uns["bulkprobe"]["X_scgpt"]
    assert len(notes["cohort_sha256"]) == 64
    assert notes | {"cohort_sha256": None} == theirs.attributes | {"cohort_sha256": None}
    np.testing.assert_array_equal(adata.X, before.X)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.var, before.var)
    assert list(adata.obsm) == ["X_scgpt"]


@pytest.mark.parametrize("make", [scipy.sparse.csr_matrix, scipy.sparse.csc_matrix, scipy.sparse.csr_array, np.float64])
@pytest.mark.parametrize("backed", [False, True], ids=["in memory", "backed"])
def test_how_the_values_lie_changes_no_number(place: Path, tmp_path: Path, make: Any, backed: bool) -> None:
    adata = made()
    adata.X = make(adata.X)
    if backed:
        adata.write_h5ad(tmp_path / "other.h5ad")
        before = (tmp_path / "other.h5ad").read_bytes()
        adata = anndata.read_h5ad(tmp_path / "other.h5ad", backed="r")
    vectors = embed(place, adata)
    assert vectors.tobytes() == read_store(place / "cli.zarr").embedding.tobytes()
    np.testing.assert_array_equal(adata.obsm["X_scgpt"], vectors)
    if backed:
        adata.file.close()
        assert (tmp_path / "other.h5ad").read_bytes() == before


@pytest.mark.parametrize("as_text", [False, True])
def test_a_path_gives_the_same(place: Path, tmp_path: Path, as_text: bool) -> None:
    path = place / "cohort.h5ad"
    vectors = embed(place, str(path) if as_text else path, output=tmp_path / "kept.zarr", batch_size=2)
    kept = bulkprobe.read_store(str(tmp_path / "kept.zarr"))
    theirs = read_store(place / "cli.zarr")
    assert vectors.tobytes() == kept.embedding.tobytes() == theirs.embedding.tobytes()
    assert kept.attributes == theirs.attributes
    assert kept.sample_id == [f"S{i}" for i in range(7)]


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data")
def test_a_table_and_a_zarr_give_the_same(place: Path, tmp_path: Path) -> None:
    adata = made()
    anndata.AnnData(adata.X, adata.obs, adata.var).write_zarr(tmp_path / "cohort.zarr")
    theirs = read_store(place / "cli.zarr").embedding
    assert embed(place, tmp_path / "cohort.zarr").tobytes() == theirs.tobytes()
    # Geneformer, since an Ensembl id says which axis the genes are on.
    pd.DataFrame(COUNTS.T, GENES.ensembl_id, [f"S{i}" for i in range(7)]).to_csv(tmp_path / "counts.tsv", sep="\t")
    of_table = bulkprobe.embed(tmp_path / "counts.tsv", "geneformer", release="untrained")
    assert of_table.tobytes() == bulkprobe.embed(made(), "geneformer", release="untrained").tobytes()


def test_a_view_gets_its_own_vectors_and_leaves_the_whole_alone(place: Path) -> None:
    adata, theirs = made(), read_store(place / "cli.zarr").embedding
    view = adata[[4, 1]]
    vectors = embed(place, view, key_added="X_mine")
    assert vectors.tobytes() == np.ascontiguousarray(theirs[[4, 1]]).tobytes()
    np.testing.assert_array_equal(view.obsm["X_mine"], vectors)
    assert not view.is_view
    assert "bulkprobe" not in adata.uns
    assert not list(adata.obsm)


def test_a_stand_in_is_made_of_its_own_genes_and_two_embeddings_stand_side_by_side() -> None:
    adata = made()
    bulkprobe.embed(adata, MODEL, release="untrained")
    bulkprobe.embed(adata, "expression")
    assert adata.uns["bulkprobe"]["X_scgpt"]["untrained"] is True
    assert adata.obsm["X_expression"].shape == (7, 250)
    assert sorted(adata.uns["bulkprobe"]) == ["X_expression", "X_scgpt"]


def test_a_layer_of_tpm_is_read(place: Path) -> None:
    adata = made()
    adata.layers["tpm"] = tpm_of(COUNTS, GENES)
    bulkprobe.embed(adata, "expression")
    np.testing.assert_allclose(adata.obsm["X_expression"], np.log2(adata.layers["tpm"] + 1), rtol=1e-5)
    first = adata.uns["bulkprobe"]["X_expression"]["cohort_sha256"]
    adata.layers["tpm"][0, 0] += 1
    bulkprobe.embed(adata, "expression")
    assert adata.uns["bulkprobe"]["X_expression"]["cohort_sha256"] != first


# ---------------------------------------------------------------- refused


def without_values(adata: anndata.AnnData) -> anndata.AnnData:
    return anndata.AnnData(None, adata.obs, adata.var)


def on_the_log(adata: anndata.AnnData) -> anndata.AnnData:
    adata.X = np.log1p(adata.X)
    return adata


def declared_tpm(adata: anndata.AnnData) -> anndata.AnnData:
    adata.X = tpm_of(COUNTS, GENES)
    adata.uns["scale"] = "tpm"
    return adata


def of_mouse(adata: anndata.AnnData) -> anndata.AnnData:
    names = [f"ENSMUSG{i:011d}" for i in range(adata.n_vars)]
    return anndata.AnnData(adata.X, adata.obs, pd.DataFrame(index=names))


def twice_named(adata: anndata.AnnData) -> anndata.AnnData:
    adata.obs_names = ["S0", *adata.obs_names[:-1]]
    return adata


def an_array(adata: anndata.AnnData) -> Any:
    return adata.X


def of_flags(adata: anndata.AnnData) -> anndata.AnnData:
    adata.X = adata.X.astype(complex)
    return adata


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_values, "the AnnData has no X: put counts"),
        (on_the_log, r"the AnnData does not say its scale, and .* is no count: .*counts, tpm, .* scale="),
        (declared_tpm, "encoder geneformer cannot read expression on the scale 'tpm'"),
        (of_mouse, "geneformer knows 0 of 250 genes .* give that kind of gene id"),
        (an_array, "the input is of type ndarray, expected an AnnData, or the path"),
        (of_flags, "X holds values of type complex128, expected numbers"),
    ],
)
def test_what_cannot_be_embedded_is_one_sentence(change: Change, message: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    write_untrained("geneformer", tmp_path / "checkpoint", GENES, 0)
    adata = change(made())
    with pytest.raises(UserError, match=message):
        bulkprobe.embed(adata, "geneformer", checkpoint=tmp_path / "checkpoint")
    assert isinstance(adata, np.ndarray) or "bulkprobe" not in adata.uns
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_samples_of_one_name_are_refused(place: Path) -> None:
    with pytest.raises(UserError, match="the AnnData has repeated samples: S0"):
        embed(place, twice_named(made()))


def test_an_unknown_encoder_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="there is no encoder 'scgtp'; did you mean 'scgpt'"):
        bulkprobe.embed(made(), "scgtp")


def test_places_that_cannot_take_vectors_are_refused_before_anything_is_computed(place: Path) -> None:
    backed = anndata.read_h5ad(place / "cohort.h5ad", backed="r")
    with pytest.raises(UserError, match=r"a view of a backed AnnData has no place .* \.to_memory\(\)"):
        embed(place, backed[:3])
    backed.file.close()
    with pytest.raises(UserError, match=r"key_added is 'X_mine', but .* is a path"):
        embed(place, place / "cohort.h5ad", key_added="X_mine")


# ---------------------------------------------------------------- probing, predicting, listing


@pytest.mark.xdist_group("workspace")
def test_probe_and_predict_do_what_the_pipeline_does(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    study = shared_workspace(tmp_path_factory)
    cohort = study / "data/cohort"
    adata = anndata.read_zarr(cohort / "expression.zarr")
    with inside(study):
        bulkprobe.embed(adata, "pca")
        found = bulkprobe.probe(adata, cohort, "mutation", save=tmp_path / "p.npz", output=tmp_path / "m.json")
    assert (tmp_path / "m.json").read_bytes() == (study / "metrics/mutation/pca.json").read_bytes()
    assert found["labels"]["pan_cancer/TP53"]["mean"] > 0.5
    theirs = bulkprobe.predict(tmp_path / "p.npz", study / "data/embeddings/pca.zarr")
    adata.write_h5ad(tmp_path / "kept.h5ad")  # numbers and lists come back as numpy's, and still fit
    again = anndata.read_h5ad(tmp_path / "kept.h5ad")
    ours = bulkprobe.predict(tmp_path / "p.npz", again, output=tmp_path / "scores.csv")
    pd.testing.assert_frame_equal(ours, theirs)
    assert len(pd.read_csv(tmp_path / "scores.csv")) == len(ours)
    bulkprobe.embed(again, "expression")
    with pytest.raises(UserError, match=r"key is None, expected one of the .*: X_expression, X_pca;"):
        bulkprobe.predict(tmp_path / "p.npz", again)
    with pytest.raises(UserError, match="model 'pca', but the embedding given has 'expression'"):
        bulkprobe.predict(tmp_path / "p.npz", again, key="X_expression")
    with pytest.raises(UserError, match="the embedding is of type ndarray"):
        bulkprobe.predict(tmp_path / "p.npz", again.X)
    # Elsewhere without params.yaml: with settings of one's own.
    store = bulkprobe.read_store(study / "data/embeddings/pca.zarr")
    assert bulkprobe.probe(store, cohort, "mutation", params=study / "params.yaml") == found
    other, quick = {"probe_survival.types": ["KIRC"]}, {"splits.n_splits": 2, "splits.inner_folds": 2}
    shown = bulkprobe.probe(store, cohort, "survival", params=study / "params.yaml", settings=other)
    theirs = json.loads((study / "metrics/survival/pca.json").read_text())
    assert {"KIRC/OS"} == set(shown["labels"]) < set(theirs["labels"])
    bulkprobe.probe(store, cohort, "survival", settings={**quick, **other}, output=tmp_path / "ours.json")
    arguments = ["--cohort", str(cohort), "--task", "survival", "--output", str(tmp_path / "theirs.json")]
    sets = [text for key, value in (quick | other).items() for text in ("--set", f"{key}={value}")]
    with inside(tmp_path, "probe", str(study / "data/embeddings/pca.zarr"), *arguments, *sets):
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code
    assert (tmp_path / "theirs.json").read_bytes() == (tmp_path / "ours.json").read_bytes()
    with pytest.raises(UserError, match="probe_survival has the unknown key 'typos'"):
        bulkprobe.probe(store, cohort, "survival", params=study / "params.yaml", settings={"probe_survival.typos": []})


@pytest.mark.xdist_group("workspace")
def test_without_params_the_shipped_settings_hold(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = shared_workspace(tmp_path_factory)
    asked: list[Any] = []
    monkeypatch.setattr(notebook.api, "probe_store", lambda *_, params, **__: asked.append(params) or {})
    bulkprobe.probe(study / "data/embeddings/pca.zarr", study / "data/cohort", "survival")
    assert asked[0].splits.n_splits == yaml.safe_load((TOP / "params.yaml").read_text())["splits"]["n_splits"]


def test_a_cohort_is_built_from_tables(tmp_path: Path) -> None:
    pd.DataFrame(COUNTS.T, GENES.ensembl_id, [f"S{i}" for i in range(7)]).to_csv(tmp_path / "counts.tsv", sep="\t")
    samples = pd.DataFrame({"sample_id": [f"S{i}" for i in range(7)], "cancer_type": "KIRC"})
    samples.to_csv(tmp_path / "samples.csv", index=False)
    tables = {"expression": "counts.tsv", "expression_scale": "counts", "samples": "samples.csv"}
    bulkprobe.build_cohort(tables, tmp_path / "cohort", folder=tmp_path)
    assert bulkprobe.embed(tmp_path / "cohort", "expression").shape == (7, 250)
    with pytest.raises(UserError, match="zzz"):
        bulkprobe.build_cohort(tables, tmp_path / "other", folder=tmp_path, rules={"zzz": 1})


def test_the_encoders_are_a_table() -> None:
    table = bulkprobe.list_encoders()
    assert {"scgpt", "geneformer", "pca"} <= set(table.index)
    assert table.loc["scgpt", "releases"].startswith("whole-human")
    assert (table.title != "").all()
    assert table.loc["pca", "kind"] == "baseline"
