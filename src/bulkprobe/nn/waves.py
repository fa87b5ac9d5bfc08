"""Expression as sines and cosines of many wavelengths, as BulkFormer reads it."""

from __future__ import annotations

import torch
from torch import Tensor

ABSENT = -10.0  # stands for a gene that the input does not measure; a measured zero is 0


def frequencies(width: int, base: float) -> Tensor:
    """Return base^(-2j / width) for j = 0 … width/2 - 1, (width / 2,)."""
    return 1.0 / base ** (torch.arange(0, width, 2).float() / width)


def waves(x: Tensor, frequencies: Tensor) -> Tensor:
    """Return [sin, cos] of expression x (n,) at all frequencies, (n, width): zeros where a gene is absent."""
    phase = x[:, None] * frequencies
    return torch.cat([phase.sin(), phase.cos()], dim=1) * (x != ABSENT)[:, None]
