"""What `bulkprobe probe` says of its result: a line a label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def told(content: Mapping[str, Any]) -> Iterator[str]:
    """Say mean and standard deviation over the splits of every label that somebody is labelled for, or why not."""
    name = "C-index" if content["task"] == "survival" else "AUROC"
    counted = "events" if content["task"] == "survival" else "positives"
    for label, entry in content["labels"].items():
        if not entry.get("n"):
            continue
        if entry["mean"] is None:
            reasons = entry.get("reason") or "undefined in every split"
            yield f"{label}: no {name} ({reasons if isinstance(reasons, str) else next(filter(None, reasons), '')})"
        else:
            splits = content["protocol"]["n_splits"]
            people = f"{entry['n']} patients, {entry.get(counted)} {counted}"
            yield f"{label}: {name} {entry['mean']:.3f} ± {entry['sd']:.3f} over {splits} splits ({people})"
