"""Reading tensors and vocabularies from files that somebody else made. Nothing in them is ever executed."""

from __future__ import annotations

import io
import mmap
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bulkprobe.errors import UserError, some
from bulkprobe.foreign import MOST_TEXT_BYTES, bytes_of, refuse_unfolding

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
# Named in a torch file, each would be called with a length.
MAKERS = re.compile(r"(builtins|__builtin__) bytearray|torch(\.cuda|\.sparse)* \w*Tensor|torch\.storage \w+")
MOST_VALUES = 100_000_000  # in a pickle; one value can stand in ten others, these in ten, and so on


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
    _refuse_makers(io.BytesIO(content), io.BytesIO(content))
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


OURS = {"dtype": _Kind, "scalar": _scalar, "encode": _encode, "_load_from_bytes": _storage, "OrderedDict": OrderedDict}


def read_pickle(path: Path, allowed: frozenset[tuple[str, str]] = PLAIN | NUMPY) -> Any:
    """Read a pickled dictionary or list through an allow-list; UserError where it asks for anything else."""
    path = existing(path)
    try:
        content = bytes_of(path)
        _refuse_lengths(content)
        found = _AllowList(io.BytesIO(content), allowed).load()
        refuse_unfolding(found, MOST_VALUES)
        return found
    except Exception as problem:  # noqa: BLE001 - damaged or hostile bytes can raise anything
        raise UserError(f"{path} is not a pickle that may be read: {one_line(problem)}; fetch it again") from None


def read_dictionary(path: Path, *kinds: type) -> dict[str, Any]:
    """Read a pickled dictionary of names and values of `kinds`; UserError for anything else, also for huge integers."""
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, expected a dictionary of genes; fetch it again")
    for key, value in content.items():
        huge = isinstance(value, int) and abs(value) >= 1 << 53
        if not isinstance(key, str) or not isinstance(value, kinds) or huge:
            raise UserError(
                f"{path} has another kind of entry than the release ({str(key)[:60]!r}: {type(value).__name__}); fetch "
                "it again"
            )
    return content


def _refuse_lengths(content: bytes) -> None:
    """Refuse a pickle that names lengths it has no bytes for, or places in its memory that nothing was put into.

    Python's unpickler takes memory for both before it looks. ValueError.
    """
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > number:
            raise ValueError(f"it puts a value into place {argument} and has not so many")


def _refuse_makers(file: Any, content: Any) -> None:
    """Refuse a torch file whose pickles name what makes something of any size; `weights_only` lets these through.

    content: the same bytes, of which no more are read than there are, whatever is asked for. ValueError.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            pickles = [member for member in archive.infolist() if member.filename.lower().endswith("data.pkl")]
            if sum(member.file_size for member in pickles) > MOST_TEXT_BYTES:
                raise ValueError(f"its pickles claim more than {MOST_TEXT_BYTES:,} bytes")
            streams = [io.BytesIO(archive.read(member)) for member in pickles]
    else:  # the old format: five pickles, then numbers
        streams = [content] * 5
    for stream in streams:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "GLOBAL" and MAKERS.fullmatch(str(argument)):
                raise ValueError(f"it makes a {str(argument).split()[-1]}, which a checkpoint has no need of")


def read_torch(path: Path) -> Any:
    """Read a torch file with `weights_only`, mapped rather than loaded where the format allows it."""
    path = existing(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _refuse_makers(file, content)
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
