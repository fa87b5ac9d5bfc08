"""Both sides: ours, and each peer in the best configuration that gives the same answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bulkprobe.probes.cox import Ties, fit_cox_path
from bulkprobe.probes.logistic import fit_logistic_path
from probe_bench.memory import peak_bytes, reset_peak
from probe_bench.problems import (
    NEAR_RIDGE,
    Floats,
    Problem,
    coxnet_alpha,
    lifelines_penalizer,
    objective,
    sklearn_c,
    sksurv_alpha,
)

SAME = 1e-6  # relative excess of the objective up to which an answer counts as the same
TIGHTER = 0.01  # times the tolerance, for the check
ENOUGH = 3.0  # seconds after which a peer is not repeated
MANY = 1_000_000  # iterations: no peer is stopped by their number

Key = tuple[int, ...]


@dataclass(frozen=True)
class Options:
    """How a side is run.

    repeats: at most so many runs are timed. A peer takes the loosest of its tolerances with which every objective is
    within SAME of the reference; without a reference, its default. strict: it also solves at a hundredth of that,
    untimed, as a check. loose: it is also timed at its default tolerance. only: numbers of the penalties that are
    solved, all by default.
    """

    repeats: int = 3
    strict: bool = False
    loose: bool = False
    only: list[int] | None = None


@dataclass(frozen=True)
class Answer:
    """What a side found.

    seconds: of each timed run. coef, intercept: as `problems.objectives` takes them. peak: bytes. tol, precision: the
    peer's setting. strict, loose: answers at a hundredth of the tolerance, and at the default.
    """

    seconds: list[float]
    coef: Floats
    intercept: Floats | None
    peak: int
    tol: float = 0.0
    precision: str = "float64"
    strict: Answer | None = None
    loose: Answer | None = None

    def arrays(self, baseline: int, prefix: str = "") -> dict[str, Any]:
        """Return what is written to the .npz file; memory is the peak above the baseline."""
        content: dict[str, Any] = {key: getattr(self, key) for key in ("seconds", "coef", "tol", "precision")}
        content["memory"] = self.peak - baseline
        if self.intercept is not None:
            content["intercept"] = self.intercept
        content = {prefix + key: value for key, value in content.items()}
        for name, answer in (("strict", self.strict), ("loose", self.loose)):
            content |= {} if answer is None else answer.arrays(baseline, f"{name}_")
        return content


class Piece(NamedTuple):
    """A model or path of a peer, with the seconds it took. key: (label, penalty), (penalty,) or () for all."""

    key: Key
    seconds: float
    coef: npt.NDArray[np.floating[Any]]
    intercept: float


Run = Callable[[Problem, float, str], Iterator[Piece]]


Solve = Callable[[Problem, Options, Floats | None], Answer]


@dataclass(frozen=True)
class Side:
    """ties: None for logistic problems. solve: problem, options, objectives to reach (or None) to answer."""

    ties: Ties | None
    peer: bool
    solve: Solve


def ours(ties: Ties | None) -> Side:
    """Make our side: all labels and penalties in one call at the default tolerance."""

    def solve(problem: Problem, options: Options, reference: Floats | None) -> Answer:
        seconds = []
        X: Any = problem.X  # the solvers take single precision too
        found: tuple[Floats, Floats | None]
        for _ in range(options.repeats):
            start = time.perf_counter()
            if ties is None:
                logistic = fit_logistic_path(X, problem.labels(), problem.penalties)
                found = logistic.coef, logistic.intercept
            else:
                found = fit_cox_path(X, *problem.outcome(), problem.penalties, ties).coef, None
            seconds.append(time.perf_counter() - start)
        return Answer(seconds, *found, peak_bytes())

    return Side(ties, False, solve)


def sklearn_runs(solver: str) -> Run:
    """One label after the other, from the largest penalty to the smallest, each started at the one before."""

    def run(problem: Problem, tol: float, precision: str) -> Iterator[Piece]:
        from sklearn.linear_model import LogisticRegression

        X = problem.X.astype(precision)  # not timed
        for label, truth in enumerate(problem.labels().T):
            model = LogisticRegression(solver=solver, tol=tol, warm_start=True, max_iter=MANY)
            for number, penalty in enumerate(problem.penalties.tolist()):
                start = time.perf_counter()
                model.set_params(C=sklearn_c(penalty, len(X))).fit(X, truth)
                seconds = time.perf_counter() - start
                yield Piece((label, number), seconds, model.coef_[0], float(model.intercept_[0]))

    return run


def outcome_of(problem: Problem) -> npt.NDArray[np.void]:
    """Event and time as scikit-survival wants them."""
    moment, event = problem.outcome()
    return np.array(list(zip(event, moment, strict=True)), dtype=[("event", bool), ("time", float)])


def sksurv_newton(problem: Problem, tol: float, precision: str) -> Iterator[Piece]:
    """One penalty after the other; it knows no warm start."""
    from sksurv.linear_model import CoxPHSurvivalAnalysis

    X, outcome = problem.X.astype(precision), outcome_of(problem)
    for number, penalty in enumerate(problem.penalties.tolist()):
        start = time.perf_counter()
        model = CoxPHSurvivalAnalysis(alpha=sksurv_alpha(penalty, len(X)), ties="efron", tol=tol, n_iter=1000)
        model.fit(X, outcome)
        yield Piece((number,), time.perf_counter() - start, model.coef_, np.nan)


def sksurv_coxnet(problem: Problem, tol: float, precision: str) -> Iterator[Piece]:
    """The whole path in one call, warm starts inside."""
    from sksurv.linear_model import CoxnetSurvivalAnalysis

    X, outcome = problem.X.astype(precision), outcome_of(problem)
    start = time.perf_counter()
    alphas = [coxnet_alpha(penalty) for penalty in problem.penalties.tolist()]
    model = CoxnetSurvivalAnalysis(alphas=alphas, l1_ratio=NEAR_RIDGE, tol=tol, max_iter=MANY).fit(X, outcome)
    yield Piece((), time.perf_counter() - start, np.ascontiguousarray(model.coef_.T), np.nan)


def lifelines(problem: Problem, tol: float, precision: str) -> Iterator[Piece]:
    """One penalty after the other; each starts anew."""
    import pandas as pd
    from lifelines import CoxPHFitter

    moment, event = problem.outcome()
    table = pd.DataFrame(problem.X.astype(precision)).assign(time=moment, event=event)
    for number, penalty in enumerate(problem.penalties.tolist()):
        start = time.perf_counter()
        model = CoxPHFitter(penalizer=lifelines_penalizer(penalty, problem.X), l1_ratio=0.0)
        model.fit(table, "time", "event", fit_options={"precision": tol})
        yield Piece((number,), time.perf_counter() - start, model.params_.to_numpy(), np.nan)


def peer(
    run: Run,
    ties: Ties | None,
    default: float,
    tolerances: Sequence[float],
    precisions: Sequence[str] = ("float64",),
) -> Side:
    """Make a side of a peer. tolerances: from the loosest to the tightest. precisions: all tried, the fastest taken.

    ties: None for a logistic problem.
    """

    def solve(problem: Problem, options: Options, reference: Floats | None) -> Answer:
        if options.only is not None:
            reference = None if reference is None else reference[..., options.only]
            problem = problem.only(options.only)
        found: list[Answer] = []
        for precision in precisions:
            for tol in tolerances if reference is not None else (default,):
                # The tightest of all is kept however good it is: the gap then shows it.
                last = not found and tol == tolerances[-1] and precision == precisions[-1]
                try:
                    answer = _once(run, ties, problem, tol, precision, None if last else reference)
                except ArithmeticError:  # Coxnet's weights overflow where patients are few and the penalty small
                    break
                if answer is not None:
                    found.append(answer)
                    break
        if not found:
            return _nothing(ties, problem, default, precisions[-1])
        best = repeated(min(found, key=lambda answer: answer.seconds[0]), problem, options)
        strict = _once(run, ties, problem, best.tol * TIGHTER, "float64", None) if options.strict else None
        loose = _once(run, ties, problem, default, best.precision, None) if options.loose else None
        return replace(best, strict=strict, loose=None if loose is None else repeated(loose, problem, options))

    def repeated(answer: Answer, problem: Problem, options: Options) -> Answer:
        seconds = list(answer.seconds)
        while len(seconds) < options.repeats and sum(seconds) < ENOUGH:
            again = _once(run, ties, problem, answer.tol, answer.precision, None)
            seconds += [] if again is None else again.seconds
        return replace(answer, seconds=seconds)

    return Side(ties, True, solve)


def _once(
    run: Run, ties: Ties | None, problem: Problem, tol: float, precision: str, reference: Floats | None
) -> Answer | None:
    """Run once; None as soon as one objective lies more than SAME above the reference."""
    reset_peak()
    empty = _nothing(ties, problem, tol, precision)
    shape = empty.coef.shape[:-1]
    coef, intercept, total = empty.coef, np.full(shape, np.nan), 0.0
    for piece in run(problem, tol, precision):
        total += piece.seconds
        coef[piece.key] = piece.coef
        intercept[piece.key] = piece.intercept
        if reference is None:
            continue
        for key in [piece.key] if piece.key else np.ndindex(shape):
            reached = objective(problem, key, coef[key], float(intercept[key]), ties)
            if reached > reference[key] + SAME * abs(reference[key]):
                return None
    return Answer([total], coef, intercept if ties is None else None, peak_bytes(), tol, precision)


def _nothing(ties: Ties | None, problem: Problem, tol: float, precision: str) -> Answer:
    """Return the answer of a peer that broke down: all NaN."""
    shape = (len(problem.penalties),) if ties is not None else (problem.labels().shape[1], len(problem.penalties))
    coef, intercept = np.full((*shape, problem.X.shape[1]), np.nan), np.full(shape, np.nan)
    return Answer([np.nan], coef, intercept if ties is None else None, peak_bytes(), tol, precision)


LBFGS = (1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7, 1e-7, 3e-8, 1e-8)
NEWTON = (1e-4, 1e-6, 1e-8)
COXNET = (1e-7, 3e-8, 1e-8, 3e-9, 1e-9, 3e-10, 1e-10, 3e-11, 1e-11, 3e-12, 1e-12, 3e-13, 1e-13)
SIDES = {
    "ours_logistic": ours(None),
    "ours_efron": ours("efron"),
    "ours_breslow": ours("breslow"),
    "sklearn_lbfgs": peer(sklearn_runs("lbfgs"), None, 1e-4, LBFGS, ("float32", "float64")),
    "sklearn_newton": peer(sklearn_runs("newton-cholesky"), None, 1e-4, NEWTON, ("float32", "float64")),
    "lifelines": peer(lifelines, "efron", 1e-7, (1e-7, 1e-9)),
    "sksurv_newton": peer(sksurv_newton, "efron", 1e-9, (1e-5, 1e-7, 1e-9)),
    "sksurv_coxnet": peer(sksurv_coxnet, "breslow", 1e-7, COXNET),
}
