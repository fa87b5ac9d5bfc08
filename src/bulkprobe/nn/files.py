"""Reading tensors and vocabularies from files that somebody else made. Nothing in them is ever executed."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bulkprobe.errors import UserError

# What a pickle may name: containers and numbers, and how numpy and torch write theirs.
PLAIN = frozenset({("collections", "OrderedDict"), ("builtins", "set"), ("builtins", "frozenset")})
NUMPY = frozenset(
    {
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("_codecs", "encode"),
    }
)
TENSORS = frozenset({("torch._utils", "_rebuild_tensor_v2"), ("torch.storage", "_load_from_bytes")})


class _AllowList(pickle.Unpickler):
    """An unpickler that knows a few harmless names and refuses every other."""

    def __init__(self, handle: io.BufferedIOBase, allowed: frozenset[tuple[str, str]]) -> None:
        super().__init__(handle)
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a vocabulary has no need of")
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _storage
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return super().find_class(module, name)


def _storage(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def read_pickle(path: Path, allowed: frozenset[tuple[str, str]] = PLAIN | NUMPY) -> Any:
    """Read a pickled dictionary or list through an allow-list; UserError where it asks for anything else."""
    path = existing(path)
    with path.open("rb") as handle:
        try:
            return _AllowList(handle, allowed).load()
        except Exception as problem:  # noqa: BLE001 - damaged or hostile bytes can raise anything
            raise UserError(f"{path} is not a pickle that may be read: {one_line(problem)}; fetch it again") from None


def read_torch(path: Path) -> Any:
    """Read a torch file with `weights_only`, mapped rather than loaded where the format allows it."""
    path = existing(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as problem:  # noqa: BLE001 - damaged or hostile bytes can raise anything
        raise UserError(
            f"{path} is not a checkpoint that may be read: {one_line(problem)}; fetch it again, nothing in it was run"
        ) from None


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a .safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = existing(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as problem:
        raise UserError(f"{path} is no safetensors file: {one_line(problem)}; fetch it again") from None


def tensors_of(content: Any, path: Path, *place: str) -> dict[str, torch.Tensor]:
    """Return the state dict at `place` (keys, one in another) of what a torch file held; UserError where it is none."""
    for key in place:
        if not isinstance(content, Mapping) or key not in content:
            raise UserError(f"{path} has no {key!r}, so it is not laid out as released; expected {'/'.join(place)}")
        content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise UserError(f"{path}: {'/'.join(place) or 'its content'} is no table of tensors as the release has it")
    return dict(content)


def existing(path: Path) -> Path:
    """Return the path; UserError where no file stands there."""
    if not path.is_file():
        raise UserError(f"{path} is missing: a checkpoint folder must hold the files exactly as released")
    return path


def first_existing(folder: Path, *names: str) -> Path:
    """Return the first of several names (globs allowed) that is there."""
    for name in names:
        found = sorted(p for p in folder.glob(name) if p.is_file())
        if found:
            return found[0]
    raise UserError(f"{folder} has none of {', '.join(names)}: a checkpoint folder must hold the files as released")


def one_line(problem: BaseException) -> str:
    """The beginning of a message, on one line."""
    return " ".join(str(problem).split())[:160] or type(problem).__name__
