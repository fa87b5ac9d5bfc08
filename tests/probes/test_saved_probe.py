from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bulkprobe.errors import UserError
from bulkprobe.probes.save import (
    Probe,
    fit_mutation_probe,
    fit_survival_probe,
    load_probe,
    median_penalty,
    predict,
    save_probe,
)
from bulkprobe.probes.transform import Transform

ENCODER = {"encoder": "pca", "checkpoint_sha256": "ab" * 32, "options": {"target_sum": 10000.0}}


@pytest.fixture(name="probes")
def fixture_probes() -> list[Probe]:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 6)).astype(np.float32)
    truth = rows[:, 0] + rng.logistic(size=50) > 0
    mutation = fit_mutation_probe(
        rows, truth, label="BRCA/TP53", penalty=0.01, transform=Transform("pca", 3), encoder=ENCODER
    )
    survival = fit_survival_probe(
        rows, rng.exponential(size=50), truth, label="BRCA/OS", penalty=0.1, transform=Transform(), encoder=ENCODER
    )
    return [mutation, survival]


def test_saved_probes_predict_the_same(probes: list[Probe], tmp_path: Path) -> None:
    new = np.random.default_rng(1).normal(size=(9, 6))
    save_probe(tmp_path / "a.npz", probes)
    loaded = load_probe(tmp_path / "a.npz")
    for before, after in zip(probes, loaded, strict=True):
        np.testing.assert_array_equal(predict(after, new), predict(before, new))
        assert (after.task, after.label, after.penalty, after.n) == (before.task, before.label, before.penalty, 50)
        assert after.encoder == ENCODER
    save_probe(tmp_path / "b.npz", loaded)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_the_median_penalty_is_one_of_the_grid() -> None:
    assert median_penalty([0.1, 1.0, None, 0.01]) == 0.1
    assert median_penalty([0.1, 1.0]) == 1.0
    with pytest.raises(UserError, match="No split of this label chose a penalty"):
        median_penalty([None])


def test_refusals(probes: list[Probe], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="width 6"):
        predict(probes[0], np.zeros((2, 5)))
    with pytest.raises(UserError, match="1 embeddings hold NaN"):
        predict(probes[0], np.array([[np.nan] * 6, [0.0] * 6]))
    with pytest.raises(UserError, match="each label once"):
        save_probe(tmp_path / "a.npz", [probes[0], probes[0]])
    with pytest.raises(UserError, match="There is no probe file"):
        load_probe(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(UserError, match="is no readable probe file"):
        load_probe(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", head=np.frombuffer(b'{"format": "bulkprobe probes 9"}', dtype=np.uint8))
    with pytest.raises(UserError, match="has format 'bulkprobe probes 9'"):
        load_probe(tmp_path / "other.npz")
    np.savez(tmp_path / "foreign.npz", x=np.zeros(3))
    with pytest.raises(UserError, match="is no readable probe file"):
        load_probe(tmp_path / "foreign.npz")
