"""Counting what each rule drops, so that no patient disappears silently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Flow:
    """The rules in the order in which they were applied, with counts, and remarks for the reader."""

    rules: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def drop(self, table: str, rule: str, before: int, dropped: int, detail: Mapping[str, int] | None = None) -> None:
        """Record that `rule` took `dropped` of `before` rows of `table`; `detail` splits the dropped ones."""
        entry: dict[str, Any] = {
            "table": table,
            "rule": rule,
            "before": int(before),
            "dropped": int(dropped),
            "after": int(before) - int(dropped),
        }
        if detail:
            entry["detail"] = {str(key): int(detail[key]) for key in sorted(detail, key=str)}
        self.rules.append(entry)

    def note(self, text: str) -> None:
        """Record a remark that is not a drop."""
        self.notes.append(text)

    def to_mapping(self) -> dict[str, Any]:
        """Return the content of flow.json."""
        return {"rules": self.rules, "notes": self.notes}
