"""The figures of docs/scale.md: that the stored ones hold their goals, and how the plan is reckoned."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import plan
import stream
from embed_bench.cases import made_genes
from stream_bench.simulated import write_counts

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
DOCS = BENCHMARKS.parent / "docs" / "scale.md"


def stored(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((BENCHMARKS / name).read_text(encoding="utf-8"))
    return rows


def test_memory_is_flat_and_time_linear_from_2_000_to_200_000_samples() -> None:
    rows = stored("stream.json")
    assert [(row["input"], row["samples"]) for row in rows] == [(kind, n) for kind in stream.KINDS for n in stream.FULL]
    for row in rows:
        assert row["memory_ratio"] <= stream.FLAT
        assert row["gap"] == 0
        kind = {"h5ad": ".h5ad", "cohort": "cohort folder"}[row["input"]]
        assert f"| {kind} | {row['samples']:,} | {row['seconds']:.1f} | " in DOCS.read_text(encoding="utf-8")
    kept = rows[2]["store_bytes"] / (4 * rows[2]["samples"] * stream.SIZES["width"])
    assert kept == pytest.approx(plan.KEPT, abs=0.01)
    ratios = [row["ratio"] for row in rows if row["samples"] == stream.FULL[-1]]
    assert all(1 / stream.LINEAR <= ratio <= stream.LINEAR for ratio in ratios)


def test_every_sample_is_the_same_at_each_size(tmp_path: Path) -> None:
    for n in (1000, 2000):
        write_counts(tmp_path / f"{n}.h5ad", made_genes(30), n)
    with h5py.File(tmp_path / "1000.h5ad") as small, h5py.File(tmp_path / "2000.h5ad") as large:
        np.testing.assert_array_equal(small["X"][:], large["X"][:1000])
        assert not np.array_equal(large["X"][:1000], large["X"][1000:])


def test_the_cards_estimates_are_near_what_was_counted() -> None:
    rows = stored("plan.json")
    assert [row["name"] for row in rows] == [
        "scgpt", "geneformer", "scfoundation", "scbert", "cellfm", "sclong", "bulkformer",
    ]  # fmt: skip
    for row in rows:
        assert abs(row["gap"]) < 0.15, row["name"]
        made = row["plan"]
        said = f"| {made['seconds']:.3f} | {made['hours']:,.0f} | {made['cost']:,.0f} | {made['shard']} | "
        line = next(
            line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {row['name']} ")
        )
        assert said in line
        assert line.startswith(f"| {row['name']} | {row['ours']:.3f} | ")


@pytest.fixture
def options() -> argparse.Namespace:
    return argparse.Namespace(samples=1e6, peak=20e12, share=0.5, price=2.0, hours=24.0, minutes=10.0)


def test_the_plan_is_operations_over_speed(options: argparse.Namespace) -> None:
    made = plan.plan({"ours": 10.0, "width": 512}, options)
    assert made["seconds"] == pytest.approx(1.0)  # 10 TFLOP at half of 20 TFLOP/s
    assert made["hours"] == pytest.approx(1e6 / 3600)
    assert (made["shard"], made["files"]) == (512, 1954)  # the largest power of two within 600 samples
    assert made["bytes"] == pytest.approx(plan.KEPT * 4 * 512 * 1e6)
    assert made["failures"] == pytest.approx(1e6 / 3600 / 24)
    assert made["lost_share"] == pytest.approx(256 / 3600 / 24)  # half a shard in 24 hours
    assert made["cost"] == pytest.approx(2 * 1e6 / 3600 * (1 + 256 / 3600 / 24))


@pytest.mark.parametrize(("tflop", "shard"), [(1e-6, 16_384), (1e4, 64)])
def test_shards_are_neither_tiny_nor_huge(tflop: float, shard: int, options: argparse.Namespace) -> None:
    assert plan.plan({"ours": tflop, "width": 1}, options)["shard"] == shard
