"""Every model's checkpoint folder, one file of it damaged: embeddings and gene vectors, or one sentence."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
import torch
from guarding import FUZZ, outcome
from hypothesis import given
from hypothesis import strategies as st
from mangling import PACKED_DAMAGES, Damage, damaged
from safetensors.torch import load_file, save_file
from test_fuzz_readers import lay

from bulkprobe.encoders import MODELS, get_encoder
from bulkprobe.encoders.base import CohortView, Weights
from bulkprobe.sources.simulate_plan import gene_facts
from bulkprobe.untrained import WRITERS, bulkformer, write_twin, write_untrained

N_GENES = 60
LATEST = "bulkformer-latest"
GENES = gene_facts().iloc[np.random.default_rng(5).permutation(5_000)[:N_GENES]].reset_index(drop=True)
COUNTS = np.random.default_rng(6).poisson(200, (2, N_GENES)).astype(np.float32)


@cache
def checkpoint(model: str) -> dict[str, bytes]:
    with TemporaryDirectory() as scratch, warnings.catch_warnings(action="ignore"):
        folder = Path(scratch)
        genes = GENES[["ensembl_id", "symbol", "length"]]
        if model == LATEST:
            bulkformer.write(folder, genes, 3, family="latest", width=32, heads=4)
        else:
            write_untrained(model, folder, genes, 3)
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def use(model: str, folder: Path) -> None:
    """Do with a checkpoint what the stages do."""
    model = "bulkformer" if model == LATEST else model
    obs = pd.DataFrame({"sample_id": ["S0", "S1"], "sample_type": "primary"})
    view = CohortView(GENES, obs, "counts", ("tpm",), lambda layer: iter([COUNTS]))
    session = get_encoder(model).start(view, {}, Weights(folder, threads=1))
    session.embed(COUNTS, obs)
    import_module(MODELS[model]).gene_vectors(folder)


def damage(model: str, folder: Path, which: int, damages: tuple[Damage, ...]) -> Path:
    files = dict(checkpoint(model))
    name = sorted(files)[which % len(files)]
    files[name] = damaged(files[name], damages)
    return lay(folder, files)


@pytest.mark.parametrize("model", [*sorted(WRITERS), LATEST])
@FUZZ
@given(which=st.integers(0, 1000), damages=PACKED_DAMAGES)
def test_a_damaged_checkpoint_is_used_or_refused(
    model: str, tmp_path_factory: pytest.TempPathFactory, which: int, damages: tuple[Damage, ...]
) -> None:
    folder = damage(model, tmp_path_factory.getbasetemp() / f"fuzz-{model}", which, damages)
    outcome(lambda: use(model, folder), folder, reserves=True)


@pytest.mark.parametrize("model", [*sorted(WRITERS), LATEST])
@FUZZ
@given(which=st.integers(0, 1000), damages=PACKED_DAMAGES)
def test_a_damaged_checkpoint_has_a_twin_or_is_refused(
    model: str, tmp_path_factory: pytest.TempPathFactory, which: int, damages: tuple[Damage, ...]
) -> None:
    top = tmp_path_factory.getbasetemp() / f"twin-{model}"
    folder = damage(model, top / "released", which, damages)
    outcome(lambda: write_twin(model.removesuffix("-latest"), folder, top / "twin", 1), top, reserves=True)


@pytest.mark.parametrize(
    ("model", "file"), [("bulkformer", "gene_length_df.csv"), ("bulkformer-latest", "gene_vocab.csv")]
)
def test_a_length_that_is_no_number_is_refused(tmp_path: Path, model: str, file: str) -> None:
    files = dict(checkpoint(model))
    (name,) = (name for name in files if name.endswith(file))
    files[name] = files[name].rstrip() + b"\x08\n"
    folder = lay(tmp_path / "in", files)
    assert file in str(outcome(lambda: use(model, folder), folder, reserves=True))


@pytest.mark.parametrize("change", [lambda value: value[:, :-8].clone(), lambda value: value[0, 0].clone()])
@pytest.mark.parametrize("model", ["scbert", "sclong", "geneformer"])
def test_parts_that_do_not_fit_each_other_are_refused(
    tmp_path: Path, model: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    folder = lay(tmp_path / "in", checkpoint(model))
    (path,) = (p for p in folder.rglob("*") if p.suffix in (".pth", ".pt", ".safetensors"))
    content = load_file(path) if model == "geneformer" else torch.load(path)
    state = content if model == "geneformer" else content["model_state_dict"]
    name = next(name for name in state if name.endswith((".to_k.weight", ".key.weight")))
    state[name] = change(state[name])
    save_file(content, path) if model == "geneformer" else torch.save(content, path)
    assert "does not fit the model" in str(outcome(lambda: use(model, folder), folder, reserves=True))
