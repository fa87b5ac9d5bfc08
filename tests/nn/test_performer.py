"""The chunked Performer against its equations, written out with all features in float64."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bulkprobe.nn import performer
from bulkprobe.nn.performer import Performer

N, WIDTH, HEADS, HEAD_WIDTH, FEATURES = 53, 12, 3, 8, 17
SCALES = {"qkv.weight": 0.5, "out.weight": 0.3, "up.weight": 0.3, "down.weight": 0.3}


def made(key_max: Literal["head", "sample"], qkv_bias: bool) -> Performer:
    random = torch.Generator().manual_seed(5)
    block = Performer(WIDTH, HEADS, HEAD_WIDTH, FEATURES, qkv_bias=qkv_bias, key_max=key_max)
    state = {name: torch.randn(value.shape, generator=random) for name, value in block.state_dict().items()}
    block.load_state_dict({name: value * SCALES.get(name, 1.0) for name, value in state.items()})
    return block.requires_grad_(False).eval()


def tokens() -> Tensor:
    return torch.randn(N, WIDTH, generator=torch.Generator().manual_seed(9)) * 2


def written_out(block: Performer, x: Tensor) -> Tensor:
    block, x = block.double(), x.double()
    q, k, v = block.qkv(block.norm1(x)).view(N, 3, HEADS, HEAD_WIDTH).permute(1, 2, 0, 3)
    scale = HEAD_WIDTH**-0.25

    def exponents(u: Tensor) -> tuple[Tensor, Tensor]:
        return scale * u @ block.projection.T, scale**2 * u.square().sum(-1, keepdim=True) / 2

    a, g = exponents(q)
    queries = torch.exp(a - g - a.amax(-1, keepdim=True)) + 1e-4
    a, g = exponents(k)
    peak = a.amax((1, 2), keepdim=True) if block.key_max == "head" else a.max()
    keys = torch.exp(a - g - peak) + 1e-4
    weights = queries @ keys.transpose(1, 2)
    mixed = (weights @ v) / weights.sum(-1, keepdim=True)
    x = x + block.out(mixed.transpose(0, 1).reshape(N, -1))
    return x + block.down(F.gelu(block.up(block.norm2(x))))


@pytest.mark.parametrize("chunk", [512, 7])
@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("key_max", ["head", "sample"])
def test_chunks_give_what_the_equations_say(
    key_max: Literal["head", "sample"], qkv_bias: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(performer, "CHUNK", chunk)
    found = made(key_max, qkv_bias)(tokens())
    torch.testing.assert_close(found.double(), written_out(made(key_max, qkv_bias), tokens()), rtol=0, atol=5e-6)


@pytest.mark.parametrize("key_max", ["head", "sample"])
def test_some_rows_are_those_of_all(key_max: Literal["head", "sample"]) -> None:
    block, rows = made(key_max, False), torch.tensor([0, 3, 40, N - 1])
    torch.testing.assert_close(block(tokens(), rows), block(tokens())[rows], rtol=0, atol=2e-6)
    assert block(tokens(), torch.tensor([2])).shape == (1, WIDTH)


def test_the_keys_maximum_matters() -> None:
    differ = made("head", False)(tokens()) - made("sample", False)(tokens())
    assert differ.abs().max() > 1e-3


def test_features_stay_float32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = performer._summed_keys
    seen = []

    def watched(k: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        seen.append((k.dtype, (k @ rest[1]).dtype))
        return exact(k, *rest)

    monkeypatch.setattr(performer, "_summed_keys", watched)
    with torch.autocast("cpu", torch.bfloat16):
        assert made("sample", False)(tokens()).dtype == torch.float32
    assert seen == [(torch.float32, torch.float32)] * HEADS
