"""The names that performer-pytorch 1.1.4 gives the tensors of a layer, and ours (`nn/performer.py`)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from bulkprobe.errors import UserError, some
from bulkprobe.nn.rename import stack

PARTS = {
    "0.norm.*": "norm1.*",
    "0.fn.fast_attention.projection_matrix": "projection",
    "0.fn.to_q.*": "q.*",
    "0.fn.to_k.*": "k.*",
    "0.fn.to_v.*": "v.*",
    "0.fn.to_out.*": "out.*",
    "1.norm.*": "norm2.*",
    "1.fn.fn.w1.*": "up.*",
    "1.fn.fn.w2.*": "down.*",
}
COUNTER = "when the features were last redrawn in training; the stored ones are used as they are"


def layer_keys(released: str, ours: str) -> dict[str, str]:
    """Return the table of `rename` for the layers `released` (with {} for the number), which become `ours`."""
    return {f"{released}.{part}": f"{ours}.{name}" for part, name in PARTS.items()}


def without_doubles(state: Mapping[str, torch.Tensor], source: object) -> dict[str, torch.Tensor]:
    """Return the tensors without those that the library registers twice; UserError where the two differ."""
    doubles = {name: name.replace(".proj_updater.instance.", ".net.") for name in state}
    doubles = {name: first for name, first in doubles.items() if first != name and first in state}
    differ = [
        name
        for name, first in doubles.items()
        if state[name].data_ptr() != state[first].data_ptr() and not torch.equal(state[name], state[first])
    ]
    if differ:
        raise UserError(
            f"{source} holds two versions of one tensor under {some(differ)}: it is damaged, fetch it again"
        )
    return {name: value for name, value in state.items() if name not in doubles}


def join_queries_keys_values(state: dict[str, torch.Tensor], ours: str) -> None:
    """Put the three projections of each layer into one, in place."""
    for kind in ("weight", "bias"):
        stack(state, (f"{ours}.q.{kind}", f"{ours}.k.{kind}", f"{ours}.v.{kind}"), f"{ours}.qkv.{kind}")
