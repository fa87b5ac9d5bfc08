from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from bulkprobe.errors import UserError
from bulkprobe.nn.mindspore import list_mindspore, read_mindspore, write_mindspore

TENSORS = {
    "encoder.0.weight": torch.arange(6.0).reshape(2, 3),
    "half": torch.tensor([[1.5], [-2.0]], dtype=torch.float16),
    "brain": torch.tensor([3.0, 0.5], dtype=torch.bfloat16),
    "global_step": torch.tensor([7], dtype=torch.int32),
    "learning_rate": torch.tensor(0.25),
    "nothing": torch.empty(0),
    "flags": torch.tensor([True, False]),
}


def number(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(place: int, content: bytes) -> bytes:
    return number(place << 3 | 2) + number(len(content)) + content


def record(name: bytes, dims: bytes, kind: bytes = b"Float32", content: bytes = b"\0" * 8) -> bytes:
    """One tensor, with `dims` encoded by the caller."""
    return field(1, field(1, name) + field(2, dims + field(2, kind) + field(3, content)))


def unpacked(*dims: int) -> bytes:
    return b"".join(b"\x08" + number(dim) for dim in dims)


def everything(path: Path) -> dict[str, torch.Tensor]:
    return read_mindspore(path, list_mindspore(path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.ckpt"


@pytest.mark.parametrize("piece_bytes", [512 << 20, 5])
def test_what_is_written_is_read(path: Path, piece_bytes: int) -> None:
    write_mindspore(path, TENSORS.items(), piece_bytes)
    found = everything(path)
    assert list(found) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor)
    assert (len(list_mindspore(path)["encoder.0.weight"].pieces) > 1) == (piece_bytes == 5)


def test_only_what_is_wanted_is_read_under_the_name_it_gets(path: Path) -> None:
    write_mindspore(path, TENSORS.items())
    found = read_mindspore(path, {"weight": list_mindspore(path)["encoder.0.weight"]})
    assert list(found) == ["weight"]
    assert torch.equal(found["weight"], TENSORS["encoder.0.weight"])


def test_all_ways_of_writing_dims_are_read(path: Path) -> None:
    two = np.array([1.0, 2.0], "<f4").tobytes()
    path.write_bytes(
        record(b"unpacked", unpacked(2, 1), content=two)
        + record(b"packed", field(1, number(1) + number(2)), content=two)
        + record(b"scalar of 2.0", unpacked(0), content=two[:4])
        + record(b"scalar of 2.7", b"", content=two[:4])
        + record(b"empty", unpacked(0), content=b"")
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in everything(path).items()}
    assert shapes == {"unpacked": (2, 1), "packed": (1, 2), "scalar of 2.0": (), "scalar of 2.7": (), "empty": (0,)}


def test_unknown_fields_are_skipped_and_unknown_types_only_listed(path: Path) -> None:
    extra = number(9 << 3) + number(300) + number(10 << 3 | 1) + b"12345678" + number(11 << 3 | 5) + b"1234"
    body = field(1, b"a") + extra + field(2, unpacked(2) + field(2, b"Float32") + extra + field(3, b"\0" * 8))
    path.write_bytes(
        field(1, body) + record(b"text", unpacked(1), b"str") + field(1, field(1, b"map") + field(3, b"x"))
    )
    found = list_mindspore(path)
    assert [(name, entry.kind) for name, entry in found.items()] == [
        ("a", "Float32"),
        ("text", "str"),
        ("map", "MapTensor"),
    ]
    with pytest.raises(UserError, match=r"tensors of a type that cannot be read: text \(str\), map \(MapTensor\)"):
        everything(path)


def test_a_checksum_is_checked(path: Path) -> None:
    body = record(b"a", unpacked(2))
    path.write_bytes(body + b"crc_num" + zlib.crc32(body).to_bytes(10, "big"))
    assert list(everything(path)) == ["a"]
    path.write_bytes(body + b"crc_num" + (zlib.crc32(body) ^ 1).to_bytes(10, "big"))
    with pytest.raises(UserError, match="its bytes do not give the checksum that it ends with; fetch it again"):
        list_mindspore(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has no tensors"),
        (record(b"a", unpacked(2))[:-1], r"a field of 26 bytes where 25 are left at byte 0"),
        (b"\x0a" + number(1 << 62) + b"x", r"a field of 4611686018427387904 bytes where 1 are left at byte 0"),
        (b"\x0a" + b"\xff" * 11, "a number of more than 64 bits"),
        (b"\x0a\xff", "it ends in the middle of a number"),
        (b"PK\x03\x04 a zip file", r"field 10 at byte|nothing that MindSpore writes stands at byte 0"),
        (b"\x02\x00", "a field 0 at byte 0"),
        (field(2, b"x"), "field 2 at byte 2, where only tensors stand"),
        (field(1, b""), "a tensor without a name"),
        (field(1, field(1, b"\xff\xfe")), "a name that is no text"),
        (field(1, field(1, b"n" * 5000)), "a name of 5000 bytes"),
        (record(b"a", unpacked(3)), r"'a' has 8 bytes where \[3\] of Float32 take 12"),
        (record(b"a", unpacked(1 << 62, 1 << 62)), "'a' has 8 bytes where"),
        (record(b"a", unpacked((1 << 64) - 2)), "a negative dim"),
        (record(b"a", unpacked(*[1] * 17)), "a tensor of more than 16 dims"),
        (record(b"a", field(1, b"\x01" * 1000)), "a tensor of more than 16 dims"),
        (record(b"a", unpacked(2)) * 2, r"'a' has 16 bytes where \[2\] of Float32 take 8"),
        (record(b"a", unpacked(2)) + record(b"a", unpacked(1, 2)), "'a' stands in it twice"),
        (record(b"a", unpacked(2)) + record(b"b", unpacked(2)) + record(b"a", unpacked(2)), "'a' stands in it twice"),
    ],
)
def test_damaged_and_hostile_bytes_are_refused(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        list_mindspore(path)
    assert "is no whole MindSpore checkpoint" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_damage_raises_anything_but_a_user_error(path: Path) -> None:
    write_mindspore(path, TENSORS.items(), 16)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    broken = [whole[:n] for n in range(len(whole))]
    for _ in range(600):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        broken.append(bytes(damaged))
    read = 0
    for content in broken:
        path.write_bytes(content)
        try:
            everything(path)
            read += 1
        except UserError:
            pass
    assert 0 < read < len(broken)


def test_a_file_that_is_not_there_or_became_shorter_is_named(path: Path) -> None:
    with pytest.raises(UserError, match=r"some.ckpt is missing"):
        list_mindspore(path)
    write_mindspore(path, TENSORS.items())
    entries = list_mindspore(path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match="became shorter while it was read"):
        read_mindspore(path, entries)
