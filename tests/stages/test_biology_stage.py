"""Stages `gene_sets` and `biology` on the small pipeline: pca, a toy model that knows the planted modules, absence."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from bulkprobe.cohort.store import open_expression
from bulkprobe.encoders import MODELS
from bulkprobe.encoders.base import Card, CohortView, Weights
from bulkprobe.errors import UserError
from bulkprobe.files import read_json, write_json
from bulkprobe.nn.samples import Sample, Samples, Tokens
from bulkprobe.params import load_params
from bulkprobe.stages import biology, gene_sets, paths
from bulkprobe.stages.checkpoints import Checkpoint, folder_hash, hashes_of, write_record
from bulkprobe.stages.gene_vectors import drawn, match
from bulkprobe.store import write_absent
from pipeline import write_params
from workspace import copy_workspace, inside, shared_workspace

SCORES = {"mean", "sd", "n_sets", "n_outside", "null_mean", "null_sd", "p", "circular", "reason"}


@pytest.fixture
def folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the small pipeline with its planted sets, stood in."""
    copied = copy_workspace(shared_workspace(tmp_path_factory), tmp_path / "study")
    with inside(copied, "pca"):
        gene_sets.main()
        yield copied


def change(folder: Path, section: str, **values: Any) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params[section] |= values
    write_params(folder, params)


def run(name: str) -> dict[str, Any]:
    """The content of a metrics file, as JSON gives it back."""
    content: dict[str, Any] = json.loads(json.dumps(biology.run(name, load_params()), allow_nan=False))
    return content


# ---------------------------------------------------------------- pca


def test_pca_knows_the_modules_of_its_own_cohort(folder: Path) -> None:
    assert biology.main() == "metrics/biology/pca.json is written"
    path = paths.metrics_path("biology", "pca")
    found, first = read_json(path), path.read_bytes()
    biology.main()
    assert path.read_bytes() == first
    assert (found["encoder"], found["model"], found["kind"], found["absent"]) == ("pca", "pca", "baseline", None)
    assert (found["simulated"], found["untrained"], found["release"]) == (True, False, None)
    sets = found["gene_sets"]
    assert set(sets) == {"collection", "source", "sha256", "n_sets", "n_sets_used", "least", "most"}
    assert (sets["collection"], sets["least"]) == ("planted", 3)
    block = found["vectors"]["input"]
    assert set(block) == {
        "reason", "what", "n_genes", "width", "n_samples", "recovery", "without_paralogs", "coexpression",
    }  # fmt: skip
    assert set(block["recovery"]) == {*SCORES, "sets"}
    assert set(block["without_paralogs"]) == {*SCORES, "pairs_left_out", "rule"}
    assert (block["reason"], block["width"]) == (None, 8)
    assert block["recovery"]["mean"] > 0.7
    assert block["recovery"]["p"] == pytest.approx(1 / 21, rel=1e-3)
    assert block["recovery"]["n_sets"] == len(block["recovery"]["sets"]) == sets["n_sets_used"]
    assert set(block["recovery"]["sets"][0]) == {"name", "size", "auroc", "null_mean", "null_sd", "p"}
    assert block["recovery"]["circular"] is None
    assert block["coexpression"]["circular"] == "these vectors are computed from this cohort's co-expression"
    assert block["coexpression"]["r2"] > 0.1  # eight components, most of them cancer types
    assert found["vectors"]["contextual"] == {
        "reason": "not asked for (contextual: false in section biology of params.yaml)"
    }


def test_no_label_is_read(folder: Path) -> None:
    first = run("pca")
    for name in ("mutations.parquet", "survival.parquet"):
        (paths.COHORT / name).unlink()
    shutil.rmtree(paths.PREDICTIONS)
    paths.SPLITS.unlink()
    assert run("pca") == first


def test_an_absent_encoder_says_so_everywhere(folder: Path) -> None:
    write_absent(paths.store_path("pca"), "switched off", {"encoder": "pca", "model": "pca"})
    found = run("pca")
    assert found["absent"] == "switched off"
    assert found["vectors"] == {"input": {"reason": "switched off"}, "contextual": {"reason": "switched off"}}


def test_other_baselines_have_a_reason_and_unlisted_encoders_are_refused(folder: Path) -> None:
    change(folder, "biology", encoders={"expression": {"model": "expression", "contextual": True}})
    assert {part: block["reason"] for part, block in run("expression")["vectors"].items()} == {
        "input": "a baseline without gene vectors",
        "contextual": "a baseline has no states of genes",
    }
    with pytest.raises(UserError, match=r"biology\.encoders has no 'pca'; known: expression"):
        run("pca")


def test_no_set_of_usable_size_is_said(folder: Path) -> None:
    change(folder, "gene_sets", least=400, most=500)
    block = run("pca")["vectors"]["input"]
    assert block["recovery"]["mean"] is None
    assert "no gene set of usable size" in block["recovery"]["reason"]
    assert "no gene set of usable size" in block["without_paralogs"]["reason"]
    assert block["coexpression"]["r2"] is not None


def test_a_table_of_paralogs(folder: Path) -> None:
    members = read_sets()[0]
    table = folder / "data" / "inputs" / "paralogs.tsv"
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(f"gene\tparalog\n{members[0]}\t{members[1]}\nX\tY\n")
    change(folder, "biology", paralogs="data/inputs/paralogs.tsv")
    found = run("pca")["vectors"]["input"]["without_paralogs"]
    assert (found["pairs_left_out"], found["rule"]) == (1, "the pairs of the given table")
    table.write_text("X\tY\n")
    with pytest.raises(UserError, match="holds no pair of genes of this cohort"):
        run("pca")
    table.write_text("one column\n")
    with pytest.raises(UserError, match="is no table of two columns"):
        run("pca")
    table.unlink()
    with pytest.raises(UserError, match="no such file: give a table of pairs or symbols"):
        run("pca")


def read_sets() -> list[list[str]]:
    lines = (paths.GENE_SETS / "sets.gmt").read_text().splitlines()
    return [line.split("\t")[2:] for line in lines]


def test_gene_sets_of_a_user(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    symbols = open_expression(paths.COHORT).var.symbol.tolist()
    (folder / "mine.gmt").write_text("\t".join(["A", "", *symbols[:12], "NOGENE"]) + "\n")
    change(folder, "gene_sets", collection="mine.gmt")
    assert gene_sets.main() == "data/gene_sets holds 1 gene sets of mine.gmt"
    assert "mine.gmt lies outside data/inputs" in capsys.readouterr().err
    found = run("pca")
    assert (found["gene_sets"]["collection"], found["gene_sets"]["source"]) == ("file", "mine.gmt")
    (only,) = found["vectors"]["input"]["recovery"]["sets"]
    assert (only["name"], only["size"]) == ("A", 12)


def test_planted_sets_need_a_simulated_cohort(folder: Path) -> None:
    write_json(paths.TRUTH / "truth.json", {"simulated": False})
    with pytest.raises(UserError, match="choose hallmark, reactome, go"):
        gene_sets.main()


# ---------------------------------------------------------------- a toy model


class Toy:
    """Its states are the planted loadings and something of the sample; it reads the genes that a sample expresses."""

    card = Card("toy", "Toy", "foundation", "none", ("counts",), "none", circular={"coexpression": "by its graph"})
    gives_states = True

    def start(self, cohort: CohortView, options: Mapping[str, Any], weights: Weights | None = None) -> Samples:
        loadings = torch.from_numpy(planted(cohort.var))
        assert weights is not None

        def states(values: np.ndarray, sample: Sample) -> tuple[np.ndarray, torch.Tensor]:
            assert torch.is_inference_mode_enabled()
            columns = np.flatnonzero(values > 0)
            own = 0.1 * np.random.default_rng(sample.row).normal(size=loadings.shape[1])
            return columns, loadings[columns] + torch.from_numpy(own)

        def tokens(values: np.ndarray, sample: Sample) -> Tokens:
            return Tokens(np.arange(3), values[:3])

        return Samples(
            2, "X", {}, lambda values, sample: torch.zeros(2), tokens, known=np.arange(len(cohort.var)),
            states=states if self.gives_states else None,
        )  # fmt: skip


def planted(var: pd.DataFrame) -> np.ndarray:
    table = pd.read_parquet(paths.TRUTH / "modules.parquet").reindex(var.ensembl_id).fillna(0.0)
    return table.to_numpy(dtype=np.float64)


@pytest.fixture
def toy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The toy as an encoder of the study, with a checkpoint and an embedding."""
    module = ModuleType("toy_biology")
    var = open_expression(paths.COHORT).var
    # Out of order, with a gene that stands twice (the first counts) and one that the cohort does not have.
    names, vectors = var.ensembl_id.tolist()[::-1], planted(var)[::-1]
    vars(module).update(
        ENCODER=Toy(),
        gene_vectors=lambda folder: ([*names, names[0], "NOGENE"], np.vstack([vectors, vectors[:2] + 9.0])),
    )
    monkeypatch.setitem(sys.modules, "toy_biology", module)
    monkeypatch.setitem(MODELS, "toy", "toy_biology")
    place = paths.weights_path("toy") / "untrained"
    place.mkdir(parents=True)
    (place / "weights").write_bytes(b"none")
    hashes = hashes_of(place)
    found = Checkpoint(place, folder_hash(hashes), "untrained", untrained=True, verified=None)
    write_record(place.parent, "toy", found, hashes)
    shutil.copytree(paths.store_path("pca"), paths.store_path("toy"))
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["encoders"]["toy"] = {"model": "toy", "release": "untrained", "enabled": True, "options": {}}
    params["biology"]["encoders"]["toy"] = {"model": "toy", "contextual": True}
    write_params(folder, params)
    return module


def test_planted_vectors_and_states_are_recovered(toy: ModuleType) -> None:
    found = run("toy")
    assert found["kind"] == "foundation"
    for part in ("input", "contextual"):
        block = found["vectors"][part]
        assert block["recovery"]["mean"] > 0.9
        assert block["without_paralogs"]["mean"] > 0.9
        assert block["coexpression"]["r2"] > 0.3
        assert block["coexpression"]["circular"] == "by its graph"
        assert block["recovery"]["circular"] is None
    assert found["vectors"]["input"]["n_genes"] == len(open_expression(paths.COHORT).var)
    assert found["vectors"]["input"]["n_samples"] is None
    assert found["vectors"]["contextual"]["n_samples"] == 24
    assert run("toy") == found


def test_shuffled_vectors_are_at_chance(toy: ModuleType) -> None:
    names, vectors = toy.gene_vectors(Path())
    shuffled = vectors[np.random.default_rng(0).permutation(len(vectors))]
    vars(toy)["gene_vectors"] = lambda folder: (names, shuffled)
    found = run("toy")["vectors"]["input"]
    assert found["recovery"]["mean"] == pytest.approx(0.5, abs=0.02)
    assert found["coexpression"]["r2"] < 0.1


def test_a_model_without_states_or_known_genes_says_so(toy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "gives_states", False)
    vars(toy)["gene_vectors"] = lambda folder: (["NOGENE"], np.ones((1, 3)))
    assert {part: block["reason"] for part, block in run("toy")["vectors"].items()} == {
        "input": "the model knows none of the cohort's genes (genes of the model 1)",
        "contextual": "this encoder gives no states of genes",
    }


def test_equal_vectors_are_undefined(toy: ModuleType) -> None:
    names, vectors = toy.gene_vectors(Path())
    vars(toy)["gene_vectors"] = lambda folder: (names, np.ones_like(vectors))
    block = run("toy")["vectors"]["input"]
    assert (block["recovery"]["mean"], block["coexpression"]["spearman"]) == (None, None)
    assert "equally similar" in block["recovery"]["reason"]


def test_circular_scores_by_collection() -> None:
    card = replace(Toy.card, circular={"go": "its graph is GO"})
    assert biology.circular_scores("toy", card.circular, "go") == {"coexpression": None, "recovery": "its graph is GO"}
    assert biology.circular_scores("toy", card.circular, "reactome") == {"coexpression": None, "recovery": None}
    assert biology.circular_scores("toy", {"coexpression": "x"}, "planted") == {"coexpression": "x", "recovery": None}


def test_names_are_matched_as_what_finds_more() -> None:
    var = pd.DataFrame({"ensembl_id": ["ENSG1.2", "ENSG2", "ENSG3"], "symbol": ["A", "B", "A"]})
    found = match(["ENSG2", "ENSG1", "A"], var)
    assert (found.columns.tolist(), found.places.tolist()) == ([0, 1], [1, 0])
    assert match(["A", "C"], var).columns.tolist() == [0]  # of two genes of one symbol the first


def test_a_tumours_own_id_decides_whether_it_is_drawn() -> None:
    samples = pd.DataFrame({"sample_id": [f"S{k}" for k in range(50)], "for_probing": [k % 5 > 0 for k in range(50)]})
    rows = drawn(samples, 10, seed=1)
    assert len(rows) == 10
    assert samples.for_probing[rows].all()
    chosen = set(samples.sample_id[rows])
    turned = samples[::-1].reset_index(drop=True)
    assert set(turned.sample_id[drawn(turned, 10, seed=1)]) == chosen
    assert set(samples.sample_id[drawn(samples, 10, seed=2)]) != chosen
    assert len(drawn(samples, 1000, seed=1)) == 40
