"""What the tables of shift and of biology share: cells with reasons, and what stands beside every score."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bulkprobe.report.background import encoder_tags
from bulkprobe.report.cells import MISSING, Cell, Notes, score, words

Blocks = Mapping[str, Mapping[str, Any]]  # encoder -> content of its file
BACKGROUND = "Saw TCGA / priors"
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def encoder(name: str, card: Mapping[str, Any]) -> Cell:
    """Show an encoder's name, and whether it is a baseline or untrained; the background has a column of its own."""
    tags = tuple(tag for tag in encoder_tags(card) if tag in ("baseline", "untrained"))
    return words(name, tip=str(card.get("title") or ""), tags=tags)


def background(card: Mapping[str, Any]) -> Cell:
    """Show in a few words whether an encoder saw TCGA and what knowledge of genes is built into it."""
    saw = card.get("saw_tcga") if card.get("kind") == "foundation" else False
    said = {True: "yes", False: "no", None: "not stated"}.get(saw, str(saw))
    priors = str(card.get("priors") or "none")
    short = re.split(r"[:;,(]", priors)[0].strip()  # the whole of it stands in the register
    return Cell(said, sort=said, spread="" if short == "none" else short, tip=f"saw TCGA: {said}; priors: {priors}")


def value(
    number: Any, form: Callable[[float], str], reason: Any, notes: Notes, spread: str = "", tip: str = ""
) -> Cell:
    """Show a number as `form` writes it; a missing one is a dash with its reason as tooltip and footnote."""
    cell = score(number, None, reason, notes, tip)
    return cell if cell.text == MISSING else replace(cell, text=form(float(number)), spread=spread)


def decimals(number: float) -> str:
    """Write a number to three decimals, with a true minus."""
    return f"{number:.3f}".replace("-", "−")


def tiny(number: float) -> str:
    """Write a distance to three decimals, or with its power of ten where those show nothing."""
    return decimals(number) if number == 0 or abs(number) >= 0.001 else f"{number:.0e}".replace("-", "−")


def percent(number: float) -> str:
    """Write a share as per cent."""
    return f"{100 * number:.1f} %"


def whole(number: float) -> str:
    """Write a number without decimals, in groups of thousands."""
    return f"{number:,.0f}"


def p_text(p: float | None) -> str:
    """Write a p-value after its letter; empty without one."""
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"


def power(depth: float) -> str:
    """Write a number of counts as a power of ten where it is one."""
    zeros = len(str(int(depth))) - 1
    return f"10{str(zeros).translate(SUPERSCRIPTS)}" if depth == 10**zeros else f"{depth:,.0f}"


def part(content: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """Return a block inside a file; an absent one carries the reason of the block above it."""
    for key in keys:
        found = content.get(key)
        content = found if isinstance(found, Mapping) else {"reason": content.get("reason")}
    return content


def without(blocks: Blocks, key: str) -> str:
    """Name the encoders that lack a block, with each reason once; empty where none does."""
    reasons: dict[str, list[str]] = {}
    for name, content in blocks.items():
        if reason := (content.get(key) or {}).get("reason"):
            reasons.setdefault(str(reason), []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())


def having(blocks: Blocks, key: str) -> dict[str, Mapping[str, Any]]:
    """Return a block of every encoder that has it."""
    return {name: found for name, content in blocks.items() if (found := content.get(key)) and not found.get("reason")}


def one_or_range(numbers: Sequence[int]) -> str:
    """Write how many there are: one number where all agree, else the least and the most."""
    if not numbers:
        return "0"
    return whole(numbers[0]) if min(numbers) == max(numbers) else f"{whole(min(numbers))} to {whole(max(numbers))}"
