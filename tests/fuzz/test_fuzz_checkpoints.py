"""Every model's checkpoint folder, one file of it damaged: embeddings and gene vectors, or one sentence."""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from guarding import FUZZ, outcome
from hypothesis import given
from hypothesis import strategies as st
from mangling import PACKED_DAMAGES, Damage, damaged
from test_fuzz_readers import lay

from bulkprobe.encoders import MODELS, get_encoder
from bulkprobe.encoders.base import CohortView, Weights
from bulkprobe.sources.simulate_plan import gene_facts
from bulkprobe.untrained import WRITERS, write_untrained

N_GENES = 60
GENES = gene_facts().iloc[np.random.default_rng(5).permutation(5_000)[:N_GENES]].reset_index(drop=True)
COUNTS = np.random.default_rng(6).poisson(200, (2, N_GENES)).astype(np.float32)


@cache
def checkpoint(model: str) -> dict[str, bytes]:
    with TemporaryDirectory() as scratch, warnings.catch_warnings(action="ignore"):
        folder = Path(scratch)
        write_untrained(model, folder, GENES[["ensembl_id", "symbol", "length"]], 3)
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def use(model: str, folder: Path) -> None:
    """Do with a checkpoint what the stages do."""
    obs = pd.DataFrame({"sample_id": ["S0", "S1"], "sample_type": "primary"})
    view = CohortView(GENES, obs, "counts", ("tpm",), lambda layer: iter([COUNTS]))
    session = get_encoder(model).start(view, {}, Weights(folder, threads=1))
    session.embed(COUNTS, obs)
    import_module(MODELS[model]).gene_vectors(folder)


@pytest.mark.parametrize("model", sorted(WRITERS))
@FUZZ
@given(which=st.integers(0, 1000), damages=PACKED_DAMAGES)
def test_a_damaged_checkpoint_is_used_or_refused(
    model: str, tmp_path_factory: pytest.TempPathFactory, which: int, damages: tuple[Damage, ...]
) -> None:
    files = dict(checkpoint(model))
    name = sorted(files)[which % len(files)]
    files[name] = damaged(files[name], damages)
    folder = lay(tmp_path_factory.getbasetemp() / f"fuzz-{model}", files)
    outcome(lambda: use(model, folder), folder, reserves=True)
