"""Two experiments side by side: which settings, files and scores differ, and which differences are more than chance."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bulkprobe.errors import some
from bulkprobe.probes.units import rounded
from bulkprobe.report.tables import TASKS
from bulkprobe.stages import comparing, paths
from bulkprobe.stages.comparing import Study, Unit
from bulkprobe.stages.revisions import Revision, entry_hash, out_hash, read_revision

LARGEST = 10
NAMED = 4  # encoders in the first sentence
GROUPS = {"src/": "source", "data/": "data", "models/": "data"}  # where a path begins -> its group; all else: outputs
NOTHING = "Nothing differs"
UNDEFINED = "undefined in some splits"


def diff(before: str, after: str) -> dict[str, Any]:
    """Read two revisions and compare them; UserError where one cannot be read."""
    return compare_revisions(read_revision(before), read_revision(after))


def compare_revisions(before: Revision, after: Revision) -> dict[str, Any]:
    """Return what differs, as plain data; every difference is after - before, positive = `after` scores better."""
    parameters = list(_parameters(before.params, after.params))
    stages = _stages(before.stages, after.stages)
    scores = _scores(before, after)
    result = {
        "before": before.name,
        "after": after.name,
        "notes": [f"{side.name}: {note}" for side in (before, after) for note in side.notes],
        "parameters": parameters,
        "stages": stages,
        "scores": scores,
    }
    sentence = _sentence(result)
    return {"sentence": sentence, "differs": not sentence.startswith(NOTHING), **result}


def _parameters(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "") -> Iterator[dict[str, Any]]:
    """Yield the flat keys whose values differ; of what only one side has, the topmost key with all that is in it."""
    for key in dict.fromkeys([*before, *after]):
        old, new, place = before.get(key), after.get(key), f"{path}{key}"
        if key not in before or key not in after:
            yield {"key": place, "before": old, "after": new, "only": "after" if key in after else "before"}
        elif isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _parameters(old, new, f"{place}.")
        elif old != new:
            yield {"key": place, "before": old, "after": new, "only": None}


def _stages(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Compare what dvc.lock says: stages, their commands, and the hashes of what went in and came out."""
    both = [name for name in after if name in before]
    commands = [
        {"stage": name, "before": before[name].get("cmd"), "after": after[name].get("cmd")}
        for name in both
        if before[name].get("cmd") != after[name].get("cmd")
    ]
    groups: dict[str, list[dict[str, Any]]] = {"source": [], "data": [], "outputs": []}
    old, new = _hashes(before), _hashes(after)
    changed = sorted(path for path in {*old, *new} if old.get(path) != new.get(path))
    for path in changed:
        group = next((name for start, name in GROUPS.items() if path.startswith(start)), "outputs")
        if group != "source" and any(other.startswith(f"{path}/") for other in changed):
            continue  # a folder of outputs that are listed themselves
        readers = [name for name in after if any(f"{path}/".startswith(f"{dep}/") for dep in _deps(after[name]))]
        groups[group].append({"path": path, "before": old.get(path), "after": new.get(path), "stages": readers})
    return {
        "only_before": [name for name in before if name not in after],
        "only_after": [name for name in after if name not in before],
        "commands": commands,
        **groups,
    }


def _deps(stage: Mapping[str, Any]) -> list[str]:
    return [entry["path"] for entry in stage.get("deps", ())]


def _hashes(stages: Mapping[str, Any]) -> dict[str, str]:
    """Short hash by path; where stages read and write the same path, that of the writer."""
    return {
        entry["path"]: re.sub(r"^(.{8}).*?(\.dir)?$", r"\1\2", entry_hash(entry))
        for kind in ("deps", "outs")
        for stage in stages.values()
        for entry in stage.get(kind, ())
    }


def _scores(before: Revision, after: Revision) -> dict[str, Any]:
    """Compare the scores of every encoder that both revisions have, task by task."""
    reason = _not_paired(before, after)
    old, new = before.setting("encoders", {}), after.setting("encoders", {})
    both = [name for name in after.metrics if name in before.metrics]
    same = [name for name in both if before.metrics[name] == after.metrics[name]]
    sides = {key: one.metrics[name] for name in both for key, one in zip(_sides(name), (after, before), strict=True)}
    level = float(after.setting("compare.level", 0.95))
    study = Study(sides, float(after.setting("splits.test_fraction", 0.2)), level)
    tasks = {}
    for task, units in comparing.task_units(study).items():
        entries = {name: _entry(study, units, name, reason) for name in both if name not in same}
        means = _summary_means(before, after, task, [name for name in new if name in old and name not in both])
        tasks[task] = {
            "title": TASKS[task],
            "measure": comparing.measure_of(task),
            "encoders": {**comparing.adjusted(entries), **means},
        }
    return {
        "paired": reason is None,
        "reason": reason,
        "level": level,
        "compared": both,
        "unchanged": same,
        "only_before": [name for name in old if name not in new],
        "only_after": [name for name in new if name not in old],
        "unread": {"before": dict(before.unread), "after": dict(after.unread)},
        "tasks": tasks,
        "nulls": list(_nulls(study, both)),
        "largest": _largest(study, [name for name in both if name not in same]),
    }


def _sides(encoder: str) -> tuple[str, str]:
    """The names under which an encoder's two runs stand in the study, the later one first."""
    return f"{encoder} (after)", f"{encoder} (before)"


def _not_paired(before: Revision, after: Revision) -> str | None:
    """Say why the splits of the two revisions cannot be taken as pairs; None where they are the same."""
    hashes = [out_hash(side.stages, paths.SPLITS.as_posix()) for side in (before, after)]
    for side, value in zip((before, after), hashes, strict=True):
        if value is None:
            return f"dvc.lock of {side.name} has no {paths.SPLITS}, so its splits are not known"
    if hashes[0] != hashes[1]:
        return f"the splits differ ({paths.SPLITS} {str(hashes[0])[:8]} and {str(hashes[1])[:8]}): other test patients"
    return None


def _entry(study: Study, units: Sequence[Unit], encoder: str, reason: str | None) -> dict[str, Any]:
    """Compare one encoder with itself over the labels that both runs have; paired unless a reason speaks against it."""
    new, old = _sides(encoder)
    found: dict[str, Any]
    if reason is None:
        test = comparing.pair(study, units, (new, "own"), (old, "own"))
        labels = [unit for unit in units if unit.label in test["labels"]]
        kept = ("low", "high", "p_calibrated", "p_holm", "n_splits", "left_out", "reason")
        found = {key: test[key] for key in kept}
    else:
        labels = [unit for unit in units if all(study.scores(side, unit) is not None for side in (new, old))]
        left_out = {unit.label: _why(study, (old, new), unit) for unit in units if unit not in labels}
        found = {"low": None, "high": None, "p_calibrated": None, "p_holm": None, "n_splits": None}
        found |= {"left_out": left_out, "reason": reason if labels else "no label is defined for both"}
    before, after = _mean(study, old, labels), _mean(study, new, labels)
    difference = None if before is None or after is None else rounded(after - before)
    return {
        "before": rounded(before),
        "after": rounded(after),
        "difference": difference,
        **found,
        "labels": [unit.label for unit in labels],
    }


def _mean(study: Study, side: str, units: Sequence[Unit]) -> float | None:
    """The mean over labels of the mean over splits; None without a label, or where one is undefined."""
    scores = [study.scores(side, unit) for unit in units]
    known = [float(np.mean(values)) for values in scores if values is not None]
    return float(np.mean(known)) if known and len(known) == len(scores) else None


def _why(study: Study, sides: Sequence[str], unit: Unit) -> str:
    """The reasons why a label is undefined, by side."""
    lacking = [side for side in sides if study.scores(side, unit) is None]
    return "; ".join(f"{side}: {study.block(side, unit).get('reason') or UNDEFINED}" for side in lacking)


def _summary_means(before: Revision, after: Revision, task: str, encoders: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The means of metrics/summary.json, for encoders whose metrics cannot be read; nothing can be tested on them."""
    found: dict[str, dict[str, Any]] = {}
    for name in encoders:
        old, new = (side.summary.get(name, {}).get(task) for side in (before, after))
        if old is None and new is None:
            continue
        found[name] = {
            "before": old,
            "after": new,
            "difference": None if old is None or new is None else rounded(new - old),
            **dict.fromkeys(("low", "high", "p_calibrated", "p_holm", "n_splits")),
            "left_out": {},
            "labels": [],
            "reason": f"means of {paths.SUMMARY} ({before.unread.get(name) or after.unread.get(name)})",
        }
    return found


def _nulls(study: Study, encoders: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every label without a score on either side, with the reasons."""
    for unit in comparing.label_units(study):
        for name in encoders:
            reasons = {}
            for when, side in zip(("after", "before"), _sides(name), strict=True):
                defined = study.scores(side, unit) is not None
                reasons[when] = None if defined else study.block(side, unit).get("reason") or UNDEFINED
            if any(reasons.values()):
                yield {"encoder": name, "label": unit.label, "measure": unit.measure, **reasons}


def _largest(study: Study, encoders: Sequence[str]) -> list[dict[str, Any]]:
    """The labels that moved most, whatever the encoder; picked for their size, so nothing is tested."""
    rows: list[dict[str, Any]] = []
    for unit in comparing.label_units(study):
        for name in encoders:
            after, before = (_mean(study, side, [unit]) for side in _sides(name))
            if after is not None and before is not None and rounded(after - before):
                row = {"encoder": name, "label": unit.label, "measure": unit.measure}
                rows.append({**row, "before": rounded(before), "after": rounded(after), "difference": after - before})
    rows.sort(key=lambda row: -abs(row["difference"]))
    return [{**row, "difference": rounded(row["difference"])} for row in rows[:LARGEST]]


def moved(scores: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the encoders that moved by more than chance in any task, with "title +difference" of each such task."""
    found: dict[str, list[str]] = {}
    for task in scores["tasks"].values():
        for name, entry in task["encoders"].items():
            if entry["p_holm"] is not None and entry["p_holm"] <= 1.0 - scores["level"]:
                found.setdefault(name, []).append(f"{task['title']} {entry['difference']:+.3f}")
    return found


def _sentence(result: Mapping[str, Any]) -> str:
    """Say in one sentence what came of it."""
    scores, names = result["scores"], f"{result['before']} and {result['after']}"
    entries = [item for task in scores["tasks"].values() for item in task["encoders"].items()]
    total = len(dict.fromkeys([*scores["compared"], *(name for name, _ in entries)]))
    if not total:
        return f"No encoder has scores in both {names}."
    # Encoders of which only means are known differ where a mean does.
    other = {name for name in scores["compared"] if name not in scores["unchanged"]}
    other |= {name for name, entry in entries if entry["before"] != entry["after"]}
    if not other:
        differs = any((result["parameters"], *result["stages"].values(), scores["only_before"], scores["only_after"]))
        what = "No score differs" if differs else NOTHING
        return f"{what} between {names}{'; files or settings do' if differs else ''}."
    if not scores["paired"]:
        return f"{len(other)} of {total} encoders have other scores; no paired test is possible: {scores['reason']}."
    found = moved(scores)
    parts = [
        f"{len(found) or 'None'} of {total} encoders moved by more than chance in {'some' if found else 'any'} task"
    ]
    who = [f"{name} ({', '.join(tasks)})" for name, tasks in found.items()]
    parts[0] += f": {some(who, NAMED)}" if who else ""
    parts += [f"{len(other) - len(found)} differ by no more than chance"] if len(other) > len(found) else []
    parts += [f"{total - len(other)} not at all"] if total > len(other) else []
    return f"{'; '.join(parts)}."
