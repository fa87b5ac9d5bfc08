"""The comparison of two experiments as text: plain for a terminal, or Markdown."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from bulkprobe.errors import printable
from bulkprobe.foreign import in_markdown
from bulkprobe.report.comparison import MEASURES
from bulkprobe.report.tables import without_counts

WIDTH = 118
CELL = 26  # characters of a cell
LIMITS = {"encoder": 18, "key": WIDTH, "path": WIDTH}
HEAD = 14  # of a heading: revisions may have long names
FOLDED = 3  # more changed files of one folder than this are one line
NOTHING = "–"


@dataclass(frozen=True)
class Section:
    """A heading, sentences, and a table under it."""

    title: str
    sentences: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def lines(result: Mapping[str, Any], markdown: bool = False) -> Iterator[str]:
    """Yield the comparison line by line."""
    yield from _paragraph(f"**{result['sentence']}**" if markdown else result["sentence"], markdown)
    for note in result["notes"]:
        yield from _paragraph(f"Note: {note}.", markdown)
    for section in _sections(result) if result["differs"] else ():
        yield ""
        yield f"### {section.title}" if markdown else section.title
        for sentence in section.sentences:
            yield from ([""] if markdown else [])
            yield from _paragraph(sentence, markdown, "  ")
        if section.rows:
            yield from _markdown(section) if markdown else _plain(section)


def _paragraph(text: str, markdown: bool, indent: str = "") -> list[str]:
    return (
        [in_markdown(printable(text))]
        if markdown
        else textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)
    )


def _plain(section: Section) -> Iterator[str]:
    """Columns side by side; the last one is wrapped, names are cut, keys and paths are not."""
    limits = [LIMITS.get(head, CELL) for head in section.head]
    table = [[_cut(head, HEAD) for head in section.head]]
    table += [[*map(_cut, row[:-1], limits), row[-1]] for row in section.rows]
    widths = [max(len(row[place]) for row in table) + 2 for place in range(len(section.head) - 1)]
    start = 2 + sum(widths)
    for *cells, last in table:
        first, *more = textwrap.wrap(last, max(WIDTH - start, 30)) or [""]
        padded = "".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        yield f"  {padded}{first}".rstrip()
        yield from (" " * start + line for line in more)


def _cut(text: str, limit: int) -> str:
    """Leave out the middle of a text that is too long for its column."""
    return text if len(text) <= limit else f"{text[: limit - 6]}…{text[-5:]}"


def _markdown(section: Section) -> Iterator[str]:
    yield ""
    for row in (section.head, ["---"] * len(section.head), *section.rows):
        yield f"| {' | '.join(_cell(str(cell)) for cell in row)} |"


def _cell(text: str) -> str:
    return in_markdown(printable(text)).replace("|", "&#124;")


def _sections(result: Mapping[str, Any]) -> Iterator[Section]:
    before, after = result["before"], result["after"]
    if result["parameters"]:
        rows = [[row["key"], _value(row, "before"), _value(row, "after")] for row in result["parameters"]]
        yield Section("Parameters", head=["key", before, after], rows=rows)
    yield from _files(result["stages"], before, after)
    scores = result["scores"]
    sentences = [f"Only in {side}: {', '.join(scores[key])}." for side, key in _sides(result) if scores[key]]
    for side, key in ((before, "before"), (after, "after")):
        sentences += [f"{name} in {side}: {why}." for name, why in scores["unread"][key].items()]
    if scores["unchanged"]:
        sentences.append(f"Unchanged: {', '.join(scores['unchanged'])}.")
    yield from _scores(scores, before, after, sentences)


def _sides(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(result["before"], "only_before"), (result["after"], "only_after")]


def _value(row: Mapping[str, Any], side: str) -> str:
    if row["only"] not in (None, side):
        return NOTHING
    value = row[side]
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= CELL:
        return text
    return f"({len(value)} keys)" if isinstance(value, Mapping) else f"{text[: CELL - 1]}…"


def _files(stages: Mapping[str, Any], before: str, after: str) -> Iterator[Section]:
    sentences = [
        f"Stages only in {side}: {_counted(stages[key])}."
        for side, key in ((before, "only_before"), (after, "only_after"))
        if stages[key]
    ]
    sentences += [f"{row['stage']} runs `{row['after']}` instead of `{row['before']}`." for row in stages["commands"]]
    rows = [row for group in ("source", "data", "outputs") for row in _folded(group, stages[group])]
    if rows or sentences:
        yield Section("Stages and files", sentences, ["", "path", before, after, "read by"], rows)


def _folded(group: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """One line a path; one for all paths that differ in an encoder's name, where they are many."""
    alike: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        parts = PurePosixPath(row["path"]).parts
        place = 2 if len(parts) > 3 and group != "source" else len(parts) - 1
        alike.setdefault("/".join([*parts[:place], "*", *parts[place + 1 :]]), []).append(row)
    for pattern, inside in alike.items():
        if len(inside) > FOLDED:
            readers = _counted(list(dict.fromkeys(name for row in inside for name in row["stages"])))
            yield [group, pattern, f"{len(inside)} files", "", readers]
            continue
        for row in inside:
            yield [group, row["path"], row["before"] or NOTHING, row["after"] or NOTHING, _counted(row["stages"])]


def _counted(stages: Sequence[str]) -> str:
    """Stage names, those of one stage for several encoders as one: probe_mutation ×14."""
    counts: dict[str, list[str]] = {}
    for name in stages:
        counts.setdefault(name.partition("@")[0], []).append(name)
    return ", ".join(names[0] if len(names) == 1 else f"{stage} ×{len(names)}" for stage, names in counts.items())


def _scores(scores: Mapping[str, Any], before: str, after: str, sentences: list[str]) -> Iterator[Section]:
    rows, reasons, same = [], [], []
    for task in scores["tasks"].values():
        equal = []
        for name, entry in task["encoders"].items():
            if entry["before"] is None and entry["after"] is None:
                continue  # stands under the undefined scores
            if entry["p_calibrated"] == 1.0 and entry["low"] is None:
                equal.append(name)  # no split differs
                continue
            rows.append([task["title"], name, *_numbers(entry), *(_tests(entry) if scores["paired"] else ())])
            rows[-1].append(f"{len(entry['labels'])} of {len(entry['labels']) + len(entry['left_out'])}")
            reasons += [f"{name}: {entry['reason']}"] if entry["reason"] not in (None, scores["reason"]) else []
        if equal:
            same.append(f"{task['title']} ({equal[0] if len(equal) == 1 else f'{len(equal)} encoders'})")
    sentences += [f"The same scores in every split: {', '.join(same)}."] if same else []
    if rows and scores["paired"]:
        sentences.append(
            "Paired over the splits; p and interval with the calibrated variance (docs/statistics.md), Holm's "
            "correction over the encoders of a task; the tasks are not corrected for each other."
        )
    elif rows:
        sentences.append(f"No paired test: {scores['reason']}.")
    sentences += [f"{reason}." for reason in dict.fromkeys(reasons)]
    if rows or sentences:
        tests = [f"{scores['level']:.0%} interval", "p", "p Holm"] if scores["paired"] else []
        head = ["task", "encoder", before, after, "difference", *tests, "labels"]
        yield Section("Scores: means over the labels that both have", sentences, head, rows)
    if scores["largest"]:
        rows = [[row["label"], MEASURES[row["measure"]], row["encoder"], *_numbers(row)] for row in scores["largest"]]
        head = ["label", "measure", "encoder", before, after, "difference"]
        yield Section("Largest changes of single labels (picked for their size: not tested)", (), head, rows)
    undefined = list(_undefined(scores["nulls"], before, after))
    if undefined:
        yield Section("Undefined scores", (), ["measure", "encoders", "labels", "why"], undefined)


def _numbers(entry: Mapping[str, Any]) -> list[str]:
    difference = NOTHING if entry["difference"] is None else f"{entry['difference']:+.4f}"
    return [*(NOTHING if entry[key] is None else f"{entry[key]:.4f}" for key in ("before", "after")), difference]


def _tests(entry: Mapping[str, Any]) -> list[str]:
    interval = NOTHING if entry["low"] is None else f"{entry['low']:+.3f} to {entry['high']:+.3f}"
    return [interval, *(_p(entry[key]) for key in ("p_calibrated", "p_holm"))]


def _undefined(nulls: Sequence[Mapping[str, Any]], before: str, after: str) -> Iterator[list[str]]:
    """Group undefined scores by their reasons; those that one side defines come first."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in nulls:
        reasons = [without_counts(row[side]) if row[side] else "defined" for side in ("before", "after")]
        groups.setdefault((row["measure"], *reasons), []).append(row)
    for (measure, old, new), rows in sorted(groups.items(), key=lambda item: "defined" not in item[0][1:]):
        encoders, labels = (list(dict.fromkeys(row[key] for row in rows)) for key in ("encoder", "label"))
        why = old if new == old else f"{before}: {old}; {after}: {new}"
        yield [MEASURES[measure], _few(encoders), _few(labels), why]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 2 else f"{names[0]}, … ({len(names)})"


def _p(value: float | None) -> str:
    return NOTHING if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
