"""The pure parts of `benchmarks/probes.py`; timing itself is only run by the slow test."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import probes
from bulkprobe.probes.cox import cox_objective
from bulkprobe.probes.logistic import logistic_objective
from bulkprobe.stages.tasks import make_splits, mutation_labels, probing_patients, survival_labels
from probe_bench import study
from probe_bench.measure import KEYS, Result, make_row, run_side, table, wrong
from probe_bench.memory import peak_bytes, reset_peak
from probe_bench.problems import Problem, cox_problem, excess, gap, logistic_problem, objectives
from probe_bench.sides import SAME, SIDES, Options

TOP = Path(__file__).resolve().parents[1]
GRID = np.array([1.0, 0.1, 0.01])


@pytest.fixture(scope="module")
def logistic() -> Problem:
    return logistic_problem(120, 6, 2, GRID, seed=3)


@pytest.fixture(scope="module")
def cox() -> Problem:
    return cox_problem(150, 6, GRID, seed=3)


def test_problems_are_drawn_the_same_again_and_differ_by_seed(logistic: Problem, cox: Problem, tmp_path: Path) -> None:
    for problem, again, other in (
        (logistic, logistic_problem(120, 6, 2, GRID, seed=3), logistic_problem(120, 6, 2, GRID, seed=4)),
        (cox, cox_problem(150, 6, GRID, seed=3), cox_problem(150, 6, GRID, seed=4)),
    ):
        again.save(tmp_path / "again.npz")
        for key, value in vars(Problem.load(tmp_path / "again.npz")).items():
            np.testing.assert_array_equal(value, getattr(problem, key))
        assert not np.array_equal(problem.X, other.X)


def test_problems_are_scaled_as_the_probes_scale_and_have_the_rates_they_say() -> None:
    problem = logistic_problem(1_000, 64, 4, GRID, seed=0)
    assert problem.X.dtype == np.float32
    np.testing.assert_allclose(problem.X.astype(float).var(axis=0), 1 / 64, rtol=1e-4)
    np.testing.assert_allclose(problem.labels().mean(axis=0), np.linspace(0.05, 0.4, 4), atol=0.002)
    spread = np.linalg.eigvalsh(np.cov(problem.X.T.astype(float)))
    assert 1e3 < spread[-1] / spread[0] < 1e6
    survival = cox_problem(1_000, 64, GRID, seed=0)
    time, event = survival.outcome()
    assert abs(event.mean() - 0.35) < 0.01
    assert (time >= 1).all()
    assert (time == np.round(time)).all()
    assert 10 < event.sum() - len(np.unique(time[event])) < 100
    with pytest.raises(ValueError, match="no survival times"):
        problem.outcome()
    with pytest.raises(ValueError, match="no labels"):
        survival.labels()


def test_the_judge_gives_the_objectives_of_the_solvers(logistic: Problem, cox: Problem) -> None:
    rng = np.random.default_rng(0)
    coef, free = rng.normal(size=(2, 3, 6)), rng.normal(size=(2, 3))
    X = logistic.X.astype(float)
    found = objectives(logistic, coef, free, None)
    expected = logistic_objective(X, logistic.labels()[:, 1], coef[1, 2], free[1, 2], GRID[2])
    assert found[1, 2] == pytest.approx(expected, rel=1e-12)
    for ties in ("efron", "breslow"):
        expected = cox_objective(cox.X.astype(float), *cox.outcome(), coef[0, 1], GRID[1], ties)
        assert objectives(cox, coef[0], None, ties)[1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", [name for name, side in SIDES.items() if side.peer])
@pytest.mark.filterwarnings("ignore")
def test_every_peer_minimises_what_we_minimise(name: str, logistic: Problem, cox: Problem) -> None:
    """A penalty converted wrongly moves the peer away from our optimum, at every penalty."""
    side = SIDES[name]
    problem = logistic if side.ties is None else cox
    own = SIDES["ours_logistic" if side.ties is None else f"ours_{side.ties}"]
    ours = own.solve(problem, Options(repeats=1), None)
    strict = side.solve(problem, Options(repeats=1, strict=True), None).strict
    assert strict is not None
    best = objectives(problem, ours.coef, ours.intercept, side.ties)
    reached = objectives(problem, strict.coef, strict.intercept, side.ties)
    assert abs(gap(best, reached)) < 1e-7
    moved = objectives(replace(problem, penalties=2 * GRID), ours.coef, ours.intercept, side.ties)
    doubled = side.solve(replace(problem, penalties=2 * GRID), Options(repeats=1, strict=True), None).strict
    assert doubled is not None
    ideal = objectives(replace(problem, penalties=2 * GRID), doubled.coef, doubled.intercept, side.ties)
    assert ((moved - ideal) / ideal).min() > 1e-6  # a factor of two in a penalty would have been seen above


@pytest.mark.filterwarnings("ignore")
def test_a_peer_takes_the_loosest_tolerance_that_is_good_enough(logistic: Problem) -> None:
    hard = replace(logistic, penalties=np.array([1e-4]))
    ours = SIDES["ours_logistic"].solve(hard, Options(repeats=1), None)
    reference = objectives(hard, ours.coef, ours.intercept, None)
    free = SIDES["sklearn_lbfgs"].solve(hard, Options(), None)
    matched = SIDES["sklearn_lbfgs"].solve(hard, Options(loose=True), reference)
    reached = objectives(hard, matched.coef, matched.intercept, None)
    assert free.tol == 1e-4
    assert excess(objectives(hard, free.coef, free.intercept, None), reference) > SAME
    assert matched.tol < 1e-4
    assert excess(reached, reference) <= SAME
    assert matched.loose is not None
    assert matched.loose.tol == 1e-4
    # A reference that nobody reaches: the tightest answer is kept, so that the gap shows what is wrong.
    kept = SIDES["sklearn_lbfgs"].solve(hard, Options(), 0.9 * reference)
    assert (kept.tol, kept.precision) == (1e-8, "float64")


def test_the_gap_is_positive_where_ours_is_worse() -> None:
    other = np.array([1.0, 2.0])
    assert gap(np.array([1.0, 2.2]), other) == pytest.approx(0.1)
    assert gap(np.array([0.9, 2.0]), other) == pytest.approx(-0.1)
    assert gap(np.array([0.9, 2.1]), other) == pytest.approx(-0.1)
    assert excess(np.array([0.9, 2.1]), other) == pytest.approx(0.05)
    broken = np.array([np.nan, 2.0])  # a peer that broke down says nothing; ours may not break down
    assert gap(np.array([5.0, 2.0]), broken) == 0.0
    assert gap(other, np.full(2, np.nan)) is None
    assert np.isnan(excess(np.array([np.nan, 2.0]), other))


def row(
    ours: list[float], other: list[float], strict: list[float] | None = None, only: list[int] | None = None
) -> dict:
    problem = cox_problem(60, 3, GRID, seed=0)
    mine = Result([3.0, 1.0, 2.0], 10e6, np.array(ours), "default")
    theirs = Result(
        [9.0, 8.0], 40e6, np.array(other), "tol 1e-7, float64", None if strict is None else np.array(strict)
    )
    made = make_row("cox_x", problem, mine, theirs, "Peer", "scikit-learn", 1.0, only)
    assert table([made]).count("\n") == 2
    return made


def test_a_row_has_the_keys_of_the_contract_and_the_right_direction() -> None:
    made = row([1.0, 1.0, 1.0], [1.1, 1.0, 1.0])
    assert set(KEYS) <= set(made)
    assert json.loads(json.dumps(made)) == made
    assert (made["ours"], made["other"], made["ratio"], made["memory_ratio"]) == (2.0, 8.0, 4.0, 0.25)
    assert made["gap"] < 0
    assert not wrong(made)
    part = row([1.0, 1.0, 1.0], [1.0], only=[1])
    assert (part["other"], part["extrapolated_from"]) == (24.0, 1)


def test_a_wrong_answer_is_told_from_a_better_one() -> None:
    assert wrong(row([1.0, 1.0, 1.0 + 1e-5], [1.0, 1.0, 1.0]))
    assert wrong(row([1.0, 1.0, float("nan")], [1.0, 1.0, 1.0]))
    nothing = row([1.0, 1.0, 1.0], [float("nan")] * 3)
    assert nothing["gap"] is None
    assert not wrong(nothing)
    # The peer stopped early and looks worse, but at a tighter tolerance it beats us.
    assert wrong(row([1.1, 1.0, 1.0], [1.2, 1.0, 1.0], strict=[1.0, 1.0, 1.0]))
    assert not wrong(row([1.0, 1.0, 1.0], [1.2, 1.0, 1.0], strict=[1.0, 1.0, 1.0]))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can forget a peak")
def test_the_peak_is_that_since_the_reset() -> None:
    reset_peak()
    before = peak_bytes()
    held = np.ones(8_000_000)
    assert 60e6 < peak_bytes() - before < 80e6
    del held
    reset_peak()
    assert peak_bytes() - before < 30e6


def test_the_study_has_the_default_labels_and_no_tested_patient_in_its_sample() -> None:
    cohort, vectors = study.simulated_cohort(2_000, 8)
    again, same = study.simulated_cohort(2_000, 8)
    assert cohort.survival.equals(again.survival)
    assert cohort.mutations.equals(again.mutations)
    np.testing.assert_array_equal(vectors, same)
    params = study.settings(1)
    patients = probing_patients(cohort)
    labels = mutation_labels(cohort, patients, params.probe_mutation)
    rate = labels["pan_cancer/TP53"].dropna().astype(float).mean()
    assert abs(rate - 0.36) < 0.05  # TP53 is mutated in about 36 % of TCGA
    assert labels.shape == (len(vectors), 19)
    assert survival_labels(cohort, patients, params.probe_survival).label.nunique() == 32
    splits = make_splits(cohort, params)
    problems = study.fold_problems(cohort, patients, vectors, splits, params)
    whole = problems["mutation"][0]
    first = splits[(splits.label == "pan_cancer/TP53") & (splits.split == 0)]
    assert len(whole.X) == ((first.role == "train") & (first.fold != 0)).sum() < 0.6 * len(first)
    assert whole.labels().shape[1] == 9
    assert all(problem.outcome()[1].sum() >= params.probe_survival.min_events for problem in problems["survival"])


def test_growth_varies_one_size_at_a_time() -> None:
    shapes = list(probes.around((10, 2, 3), {"n": (10, 20), "d": (2, 4)}))
    assert shapes == [("n", 10, [10, 2, 3]), ("n", 20, [20, 2, 3]), ("d", 2, [10, 2, 3]), ("d", 4, [10, 4, 3])]


def test_a_side_in_a_process_of_its_own_gives_the_same_answer(logistic: Problem, tmp_path: Path) -> None:
    logistic.save(tmp_path / "problem-0.npz")
    (found,) = run_side("ours_logistic", [logistic], tmp_path, Options(repeats=2), threads=1)
    ours = SIDES["ours_logistic"].solve(logistic, Options(repeats=1), None)
    np.testing.assert_allclose(found.objectives, objectives(logistic, ours.coef, ours.intercept, None), rtol=1e-9)
    assert len(found.seconds) == 2
    assert min(found.seconds) > 0


@pytest.mark.slow
def test_quick_writes_every_row(tmp_path: Path) -> None:
    target = tmp_path / "rows.json"
    # One thread: BLAS threads that wait for a processor busy with other tests take minutes.
    command = [
        sys.executable,
        str(TOP / "benchmarks" / "probes.py"),
        "--quick",
        "--threads",
        "1",
        "--json",
        str(target),
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    rows = json.loads(target.read_text(encoding="utf-8"))
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names)
    assert {
        "logistic_lbfgs",
        "logistic_lbfgs_default",
        "logistic_newton_cholesky",
        "cox_lifelines",
        "cox_newton",
        "cox_coxnet",
        "cox_coxnet_default",
        "study",
    } <= set(names)
    for kind in (
        "logistic_growth_n_",
        "logistic_growth_d_",
        "logistic_growth_labels_",
        "cox_growth_n_",
        "cox_growth_d_",
    ):
        assert sum(name.startswith(kind) for name in names) >= 2
    for entry in rows:
        assert set(KEYS) <= set(entry)
        assert entry["ours"] > 0
        assert entry["gap"] <= SAME
        assert entry["ours_excess"] <= SAME
        assert entry["ratio"] == pytest.approx(entry["other"] / entry["ours"], rel=0.01)


@pytest.mark.slow
def test_encoders_are_timed_against_a_plain_reading_that_gives_the_same_answer(tmp_path: Path) -> None:
    command = [sys.executable, str(TOP / "benchmarks" / "embed.py"), "--quick", "--only", "geneformer_v2"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "rows.json")], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert set(row) >= set(KEYS)
    assert row["name"] == "geneformer_v2"
    assert row["gap"] < 1e-5
    assert row["ratio"] == pytest.approx(row["other"] / row["ours"])
    assert row["tflop"] > 0
