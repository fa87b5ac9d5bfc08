"""What must be known of an encoder wherever a score of it stands: did it see TCGA, what is built into it?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def encoder_tags(card: Mapping[str, Any]) -> tuple[str, ...]:
    """What must stand beside an encoder's name: baseline, untrained, TCGA (seen; ? not stated), prior (built in)."""
    if card.get("kind") == "baseline":
        return ("baseline",)
    tags: tuple[str, ...] = ("untrained",) if card.get("untrained") else ()
    saw = card.get("saw_tcga", False)
    if saw is not False:
        tags += ("TCGA" if saw is True else "TCGA?",)
    return (*tags, "prior") if card.get("priors") not in (None, "", "none") else tags
