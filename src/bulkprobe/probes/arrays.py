"""Types of the probe room, and where arrays live: numpy's, or torch's on a GPU.

The solvers are written once, against the Python array API.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = Any  # numpy's or torch's
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
EPSILON = float(np.finfo(np.float64).eps)


def namespace(device: str) -> Any:
    """numpy for "cpu", torch for anything else ("cuda", or "torch" for its CPU, which tests use)."""
    if device == "cpu":
        return np
    import array_api_compat.torch as torch  # seconds to import, and only wanted on a GPU

    return torch


def to_device(values: npt.NDArray[Any], device: str) -> Array:
    """Bring a numpy array to the device."""
    if device == "cpu":
        return values
    import torch

    return torch.from_numpy(np.ascontiguousarray(values)).to("cpu" if device == "torch" else device)


def to_numpy(values: Array) -> npt.NDArray[Any]:
    """Bring an array back."""
    return np.asarray(values if isinstance(values, np.ndarray) else values.cpu().numpy())
