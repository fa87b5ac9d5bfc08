"""From token states to one vector a sample."""

from __future__ import annotations

import torch
from torch import Tensor


def pool(hidden: Tensor, how: str) -> Tensor:
    """Return (width,) from (n, width): mean, max, median (the mean of the middle two where n is even), cls, last.

    The mean is summed in float64, so that 20,000 equal values keep their value.
    """
    if not len(hidden):
        raise ValueError("no token to pool over")
    if how == "mean":
        return (hidden.sum(0, dtype=torch.float64) / len(hidden)).to(hidden.dtype)
    if how == "max":
        return hidden.amax(0)
    if how == "median":
        ordered = hidden.sort(0).values
        return (ordered[(len(hidden) - 1) // 2] + ordered[len(hidden) // 2]) / 2
    if how == "cls":
        return hidden[0]
    if how == "last":
        return hidden[-1]
    raise ValueError(f"no pooling {how!r}")
