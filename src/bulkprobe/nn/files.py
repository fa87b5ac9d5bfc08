"""Reading tensors and vocabularies from files that somebody else made. Nothing in them is ever executed."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bulkprobe.errors import UserError, some

# What a pickle may name: containers and numbers, and how numpy and torch write theirs. What stands for numpy's names
# here is ours: numpy's own take memory for any shape, and believe what a pickle says of how a type lies in memory.
PLAIN = frozenset({("collections", "OrderedDict"), ("builtins", "set"), ("builtins", "frozenset")})
NUMPY = frozenset(
    {
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
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
        return OURS.get(name) or super().find_class(module, name)


class _Kind:
    """The type of a number or a text, as a pickle names it: f8, i2, U15, … in the machine's order of bytes."""

    def __init__(self, code: str, *_: object) -> None:
        self.dtype = np.dtype(code)
        if self.dtype.kind not in "biufUS":
            raise ValueError(f"values of type {code!r}")

    def __setstate__(self, state: tuple[object, ...]) -> None:
        if state[1] not in ("<", "|", "="):
            raise ValueError(f"numbers in the order {state[1]!r} of bytes")


def _scalar(kind: _Kind, content: bytes) -> Any:
    (number,) = np.frombuffer(content, kind.dtype)
    return number


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # how protocols before 3 write bytes
        raise ValueError(f"bytes written as {encoding!r}")
    return text.encode(encoding)


def _storage(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


OURS = {"dtype": _Kind, "scalar": _scalar, "encode": _encode, "_load_from_bytes": _storage, "OrderedDict": OrderedDict}


def read_pickle(path: Path, allowed: frozenset[tuple[str, str]] = PLAIN | NUMPY) -> Any:
    """Read a pickled dictionary or list through an allow-list; UserError where it asks for anything else."""
    path = existing(path)
    content = io.BytesIO(path.read_bytes())  # a file object would take memory for any length that a pickle names
    try:
        return _AllowList(content, allowed).load()
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
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as problem:
        raise UserError(f"{path} is no safetensors file: {one_line(problem)}; fetch it again") from None


def tensors_of(content: Any, path: Path, *place: str) -> dict[str, torch.Tensor]:
    """Return the state dict at `place` (keys, one in another) of what a torch file held; UserError where it is none."""
    for key in place:
        if not isinstance(content, Mapping) or key not in content:
            raise UserError(f"{path} has no {key!r}, so it is not laid out as released; expected {'/'.join(place)}")
        content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise UserError(f"{path}: {'/'.join(place) or 'its content'} is no table of tensors as the release has it")
    if spread := [str(name) for name, value in content.items() if not (isinstance(name, str) and is_whole(value))]:
        raise UserError(f"{path} has tensors that are not stored number by number: {some(spread)}; fetch it again")
    return dict(content)


def is_whole(tensor: torch.Tensor) -> bool:
    """Whether a tensor has every one of its numbers in the file; views can claim any shape over a single one."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


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
