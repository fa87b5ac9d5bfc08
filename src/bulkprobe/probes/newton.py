"""Newton's method for the ridge Cox model, one training part at a time: the reference of the fast solver."""

from __future__ import annotations

import numpy as np
from scipy import linalg

from bulkprobe.probes.arrays import EPSILON, Floats
from bulkprobe.probes.partial_likelihood import PartialLikelihood
from bulkprobe.probes.solver import ROUNDING, ConvergenceError

STEPS = 100
HALVINGS = 60


def solve_newton(design: Floats, loss: PartialLikelihood, grid: Floats, tol: float) -> Floats:
    """Minimise loss(design @ w) + penalty / 2 * |w|^2 for each penalty, (rank, n_penalties).

    design: (n, rank). The heaviest penalty starts from zero, each other from the solution before it. The Hessian
    takes two matrix products; steps are halved until the objective falls (Armijo). Raises ConvergenceError.
    """
    rank = design.shape[1]
    found = np.zeros((rank, len(grid)))
    weights = np.zeros(rank)
    first = loss.evaluate(np.zeros((1, len(design), 1)))[1][0, :, 0]
    goal = max(
        tol * float(np.linalg.norm(design.T @ first)),
        EPSILON * float(np.linalg.norm(design)) * float(np.linalg.norm(first)),
    )
    for number in np.argsort(-grid, kind="stable").tolist():
        penalty = float(grid[number])
        for _ in range(STEPS):
            eta = design @ weights
            value, slope = loss.evaluate(eta[None, :, None])
            whole = float(value[0, 0]) + penalty / 2 * float(weights @ weights)
            gradient = design.T @ slope[0, :, 0] + penalty * weights
            size = float(np.linalg.norm(gradient))
            if size <= goal:
                break
            hessian = loss.hessian(eta, design)
            hessian[np.diag_indices(rank)] += penalty
            step = _solve_positive(hessian, gradient)
            t, slope_along = 1.0, float(gradient @ step)
            for _ in range(HALVINGS):
                tried = weights - t * step
                new = float(loss.evaluate((design @ tried)[None, :, None])[0][0, 0]) + penalty / 2 * float(
                    tried @ tried
                )
                if new <= whole - 1e-4 * t * slope_along + ROUNDING * max(abs(whole), 1.0):
                    break
                t /= 2
            weights = tried
        else:
            raise ConvergenceError(
                f"the Cox model at penalty {penalty:g} did not converge in {STEPS} Newton steps: gradient norm "
                f"{size:.3g} where {goal:.3g} is asked; raise tol or the smallest penalty"
            )
        found[:, number] = weights
    return found


def _solve_positive(matrix: Floats, right: Floats) -> Floats:
    """Solve by Cholesky; by LU where rounding has spoilt positive definiteness."""
    _, solution, failed = linalg.lapack.dposv(matrix, right, lower=1)
    solution = np.linalg.solve(matrix, right) if failed else solution
    return np.asarray(solution, dtype=np.float64).reshape(len(right))
