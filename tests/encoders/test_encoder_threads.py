"""Every model gives the same bytes whatever threads the caller, the environment and torch have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from made import made_counts, made_genes, made_view
from threadpoolctl import threadpool_limits

from bulkprobe.encoders import get_encoder
from bulkprobe.encoders.base import Weights
from bulkprobe.nn.samples import Sample
from bulkprobe.untrained import WRITERS, write_untrained

# Long enough for torch and MKL to share a sum between threads where they are let.
GENES, COUNTS = made_genes(1500, seed=5), made_counts(3, 1500, seed=6)
OBS = pd.DataFrame({"sample_id": ["S0", "S1", "S2"]})
FIXED: dict[str, dict[str, Any]] = {"scfoundation": {"target_sum": 50_000.0}}


def vectors(model: str, folder: Path, threads: int) -> list[np.ndarray]:
    """Embeddings and the states of one sample, with so many threads everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads), pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", str(threads))
            session: Any = get_encoder(model).start(made_view(GENES, COUNTS), FIXED.get(model, {}), Weights(folder))
            found = [session.embed(COUNTS, OBS)]
    finally:
        torch.set_num_threads(before)
    if session.states is not None:
        torch.set_num_threads(1)  # as `gene_vectors` has it in its own threads
        try:
            with torch.inference_mode():
                found.append(session.states(COUNTS[0], Sample("S0", 0))[1].numpy())
        finally:
            torch.set_num_threads(before)
    return found


@pytest.mark.parametrize("model", sorted(WRITERS))
def test_no_byte_depends_on_any_setting_of_threads(model: str, tmp_path: Path) -> None:
    write_untrained(model, tmp_path, GENES, 3)
    one = vectors(model, tmp_path, 1)
    for threads in (2, 3):
        for first, other in zip(one, vectors(model, tmp_path, threads), strict=True):
            assert first.tobytes() == other.tobytes()
