"""From the names in a released checkpoint to ours: a literal table, nothing guessed, nothing silently left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import TypeVar

import torch

from bulkprobe.errors import UserError, some

T = TypeVar("T")


def rename(state: Mapping[str, T], keys: Mapping[str, str], ignored: Mapping[str, str], source: object) -> dict[str, T]:
    """Return the tensors under our names.

    keys: released name → ours; `{}` stands for a layer's number, `*` for any rest, in the same order on both sides.
    ignored: released name → why it is not needed. A name that no rule knows, or two that become one, is a UserError;
    a name that two rules know is a mistake in the table (ValueError).
    """
    found: dict[str, T] = {}
    unknown, twice = [], []
    for name, value in state.items():
        hits = [(rule, match) for rule in (*keys, *ignored) if (match := _pattern(rule).fullmatch(name))]
        if len(hits) > 1:
            raise ValueError(f"{name} fits several rules: {', '.join(rule for rule, _ in hits)}")
        if not hits:
            unknown.append(name)
            continue
        rule, match = hits[0]
        if rule in ignored:
            continue
        target = keys[rule]
        for part in match.groups():
            at = min(place for place in (target.find("{}"), target.find("*")) if place >= 0)
            target = target[:at] + part + target[at + (2 if target[at] == "{" else 1) :]
        (twice.append(name) if target in found else found.setdefault(target, value))
    if unknown or twice:
        wrong = f"tensors that this model does not have: {some(unknown)}" if unknown else ""
        double = f"tensors that stand for the same thing: {some(twice)}" if twice else ""
        raise UserError(f"{source} has {'; '.join(filter(None, (wrong, double)))}; is it of another model or release?")
    return found


@cache
def _pattern(rule: str) -> re.Pattern[str]:
    return re.compile(re.escape(rule).replace(r"\{\}", r"(\d+)").replace(r"\*", "(.+)"))


def depth_of(state: Mapping[str, object], rule: str, source: object) -> int:
    """Return the number of layers of a stack, from a name with `{}` for the number; UserError where one lacks."""
    pattern = re.compile(re.escape(rule).replace(r"\{\}", r"(\d+)") + r"(?:\..*)?")
    numbers = {int(match.group(1)) for name in state if (match := pattern.fullmatch(name))}
    if not numbers or numbers != set(range(len(numbers))):
        raise UserError(f"{source} has layers {some(sorted(numbers)) or 'none'} of {rule!r}: expected 0, 1, 2, …")
    return len(numbers)


def stack(state: dict[str, torch.Tensor], parts: tuple[str, ...], whole: str) -> None:
    """Put tensors that are multiplied with the same input into one, in place: `parts` (names with {}) → `whole`."""
    pattern = _pattern(parts[0])
    for match in [m for name in list(state) if (m := pattern.fullmatch(name))]:
        names = [part.replace("{}", match.group(1)) if match.groups() else part for part in parts]
        if any(name not in state for name in names):
            continue  # the strict load names what is missing
        if any(not state[name].ndim or state[name].shape[1:] != state[names[0]].shape[1:] for name in names):
            continue  # or what does not fit
        target = whole.replace("{}", match.group(1)) if match.groups() else whole
        state[target] = torch.cat([state.pop(name) for name in names])


def unfilled_table(rows: int, width: int) -> torch.nn.Embedding:
    """Return an embedding for `load_strict` to fill; PyTorch's own draws numbers first, a second's work on "meta"."""
    return torch.nn.Embedding(rows, width, _weight=torch.empty(rows, width))


def load_strict(module: torch.nn.Module, state: Mapping[str, torch.Tensor], source: object) -> None:
    """Fill a module (made under `torch.device("meta")`) with the tensors; all differences are one UserError.

    The tensors are taken as they are, without a copy. Afterwards the module is in evaluation mode without gradients.
    """
    want = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    have = {name: tuple(value.shape) for name, value in state.items()}
    missing, strange = sorted(set(want) - set(have)), sorted(set(have) - set(want))
    shapes = [
        f"{name} is {have[name]}, expected {want[name]}"
        for name in sorted(set(want) & set(have))
        if want[name] != have[name]
    ]
    parts = [
        f"missing: {some(missing)}" if missing else "",
        f"not expected: {some(strange)}" if strange else "",
        f"of another shape: {some(shapes)}" if shapes else "",
    ]
    if any(parts):
        raise UserError(f"{source} does not fit the model; tensors {'; '.join(filter(None, parts))}")
    module.load_state_dict(dict(state), strict=True, assign=True)
    module.requires_grad_(False).eval()


def parameters_of(module: torch.nn.Module) -> int:
    """Return how many numbers of a checkpoint a module holds, random features of Performers among them."""
    return sum(value.numel() for value in module.state_dict().values())
