"""Elastic-net Cox regression, by the library skglm: sparse coefficients, the same interface as the ridge path."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

from bulkprobe.errors import UserError
from bulkprobe.probes.arrays import Floats
from bulkprobe.probes.cox import CoxPath, check_problem
from bulkprobe.probes.partial_likelihood import Outcome, PartialLikelihood, Ties
from bulkprobe.probes.solver import ConvergenceError

TOL = 1e-6  # distance from optimality relative to the largest gradient of the model without features
MAX_ITER = 50  # working sets a penalty
NEWTON_STEPS = 100  # steps a working set


def fit_cox_elastic_net(
    X: npt.ArrayLike,
    time: npt.ArrayLike,
    event: npt.ArrayLike,
    penalties: npt.ArrayLike,
    l1_ratio: float,
    ties: Ties = "efron",
    *,
    tol: float = TOL,
    max_iter: int = MAX_ITER,
) -> CoxPath:
    """Minimise -(log partial likelihood) / n + penalty * (l1_ratio * |b|_1 + (1 - l1_ratio) / 2 * |b|^2).

    X: (n, d) features. time: (n,) follow-up, any unit. event: (n,) bool, True = died. penalties: (n_penalties,),
    positive, in any order; solved from the largest on, each from the last solution. l1_ratio: above 0, up to 1 (the
    lasso); 0 is the ridge of `fit_cox_path`. Every solution is checked: no coordinate's distance from optimality
    exceeds tol times the largest gradient at b = 0. The first call in a process compiles for about half a minute.
    Raises UserError where skglm is not installed, ConvergenceError where the check fails (tiny penalties with more
    features than patients), ValueError on what cannot be fitted (no event, NaN).
    Zou and Hastie 2005, DOI 10.1111/j.1467-9868.2005.00503.x; Simon et al. 2011, DOI 10.18637/jss.v039.i05; solver:
    Bertrand et al. 2022, DOI 10.48550/arXiv.2204.07826.
    """
    X, time = np.asarray(X, dtype=np.float64), np.asarray(time, dtype=np.float64)
    event, grid = np.asarray(event), np.asarray(penalties, dtype=np.float64)
    check_problem(X, time, event, grid, ties)
    if not 0 < l1_ratio <= 1:
        raise ValueError(f"l1_ratio is {l1_ratio!r}; it must be above 0 and at most 1 (fit_cox_path is the one for 0)")
    try:
        from skglm.datafits import Cox
        from skglm.penalties import L1_plus_L2
        from skglm.solvers import ProxNewton
        from sklearn.exceptions import ConvergenceWarning
    except ImportError as missing:
        raise UserError(
            f"the elastic-net Cox model needs skglm, which cannot be imported ({missing}); install it with "
            "pip install 'bulkprobe[elasticnet]'"
        ) from missing
    width = X.shape[1]
    # Centring cancels in the likelihood and tames exp(). A column of zeros goes beside a lone one: numba would take
    # its memory for rows, compile everything anew, and warn.
    centred = np.zeros((len(X), max(width, 2)), order="F")
    centred[:, :width] = X - X.mean(axis=0)
    outcome = np.asfortranarray(np.column_stack([time, event.astype(np.float64)]))
    loss = PartialLikelihood.build([Outcome(time, event)], ties, over=[float(len(X))])
    coef = np.zeros(centred.shape[1])
    goal = tol * np.abs(_gradient(loss, centred, coef)).max(initial=0.0)
    datafit = Cox(use_efron=ties == "efron")
    solver = ProxNewton(fit_intercept=False, tol=goal, max_iter=max_iter, max_pn_iter=NEWTON_STEPS)
    path = np.zeros((len(grid), width))
    for at in np.argsort(-grid, kind="stable"):
        penalty = L1_plus_L2(float(grid[at]), float(l1_ratio))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the check below is stricter
            coef = solver.solve(centred, outcome, datafit, penalty, coef.copy(), centred @ coef)[0]
        distance = float("nan")
        if np.isfinite(coef).all():
            distance = _from_optimality(_gradient(loss, centred, coef), coef, float(grid[at]), l1_ratio)
        # Twice: the solver's own sums differ by rounding.
        if not distance <= 2 * goal:
            raise ConvergenceError(
                f"the elastic-net Cox model at penalty {grid[at]:g} did not converge in {max_iter} working sets: "
                f"{distance:.3g} from optimality where {goal:.3g} is asked; raise tol or the smallest penalty"
            )
        path[at] = coef[:width]
    return CoxPath(path)


def _gradient(loss: PartialLikelihood, X: Floats, coef: Floats) -> Floats:
    """Gradient by the coefficients, (d,), of the likelihood that the ridge model uses too."""
    return np.asarray(X.T @ loss.evaluate((X @ coef)[None, :, None])[1][0, :, 0])


def _from_optimality(gradient: Floats, coef: Floats, penalty: float, l1_ratio: float) -> float:
    """Largest distance of a coordinate's negative gradient from the subdifferential of the penalty."""
    slope = gradient + penalty * (1 - l1_ratio) * coef
    zero = np.maximum(np.abs(slope) - penalty * l1_ratio, 0.0)
    return float(np.where(coef == 0, zero, np.abs(slope + penalty * l1_ratio * np.sign(coef))).max(initial=0.0))
