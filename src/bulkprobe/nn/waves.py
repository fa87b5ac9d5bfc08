"""Expression as sines and cosines of many wavelengths, as BulkFormer reads it.

Expression is one number between 0 and ln(1 + 1,000,000), so that hundreds of sines and cosines of it are combinations
of some 25 polynomials: a linear layer that reads the waves can read the polynomials instead, at a fraction of the cost.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ABSENT = -10.0  # stands for a gene that the input does not measure; a measured zero is 0
HIGHEST = 13.82  # a little over ln(1 + 1,000,000), the largest ln(1 + TPM) there is
REMAINDER = 1e-10  # of a wave, which the polynomials may leave


def frequencies(width: int, base: float) -> Tensor:
    """Return base^(-2j / width) for j = 0 … width/2 - 1, (width / 2,)."""
    return 1.0 / base ** (torch.arange(0, width, 2).float() / width)


def waves(x: Tensor, frequencies: Tensor) -> Tensor:
    """Return [sin, cos] of expression x (n,) at all frequencies, (n, width): zeros where a gene is absent."""
    phase = x[:, None] * frequencies
    return torch.cat([phase.sin(), phase.cos()], dim=1) * (x != ABSENT)[:, None]


def polynomials(x: Tensor, degree: int) -> Tensor:
    """Return Chebyshev's polynomials of x (n,) on [0, HIGHEST], (n, degree + 1): zeros where a gene is absent."""
    scaled = x.double() * (2 / HIGHEST) - 1
    found = scaled.new_zeros(degree + 1, len(x))
    found[0] = x != ABSENT
    found[1] = scaled * found[0]
    for k in range(2, degree + 1):
        torch.addcmul(-found[k - 2], scaled, found[k - 1], value=2, out=found[k])
    return found.T.float()


def wave_coefficients(frequencies: Tensor) -> Tensor:
    """Return c (degree + 1, width) float64 such that waves(x) = polynomials(x) @ c, but for REMAINDER.

    A wave of frequency f has coefficients J_k(f HIGHEST / 2) of size below (f HIGHEST / 4)^k / k!, which tells the
    degree; they are found from the waves at the roots of a polynomial of twice the degree.
    """
    reach = float(frequencies.abs().max()) * HIGHEST / 4
    degree = next(k for k in range(math.ceil(2 * reach) + 1, 10**6) if _log_power(reach, k) < math.log(REMAINDER))
    roots = 2 * (degree + 1)
    angles = (torch.arange(roots, dtype=torch.float64) + 0.5) * (math.pi / roots)
    values = waves((angles.cos() + 1) * (HIGHEST / 2), frequencies.double().cpu())
    found = torch.cos(torch.arange(degree + 1)[:, None] * angles) @ values * (2 / roots)
    found[0] /= 2
    return found


def _log_power(base: float, k: int) -> float:
    """ln(base^k / k!)."""
    return k * math.log(max(base, 1e-300)) - math.lgamma(k + 1)
