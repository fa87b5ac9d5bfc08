"""Whether the results of a study hold: files against dvc.lock, weights and stores against each other, scores again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from bulkprobe.cohort.read import input_hash
from bulkprobe.cohort.schema import SAMPLES
from bulkprobe.encoders import get_encoder
from bulkprobe.errors import UserError, some
from bulkprobe.files import read_json
from bulkprobe.params import Params, load_params
from bulkprobe.probes.metrics import auroc, harrell_c
from bulkprobe.stages import compare, paths
from bulkprobe.stages.checkpoints import RECORD, Checkpoint, hashes_of, is_release, read_record, recorded
from bulkprobe.stages.locked import Finding, Hashed, check_lock
from bulkprobe.store import check_store

ROUNDING = 1e-6  # metrics files hold six decimals
TASKS = ("mutation", "survival")
ByPart = dict[tuple[str, int], dict[str, np.ndarray]]  # columns by label and split


@dataclass(frozen=True)
class Verdict:
    """What was checked, a line each, and what was found."""

    checked: tuple[str, ...]
    findings: tuple[Finding, ...]
    hashed: Hashed

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not self.findings

    def summary(self) -> str:
        """One sentence with the counts."""
        done = self.hashed
        counts = f"{done.outputs} outputs ({done.files} files, {done.size / 1e6:.1f} MB) of {done.stages} stages"
        if self.ok:
            return f"all is well: {counts} are what dvc.lock says, and {len(self.checked)} further checks hold"
        advice = "`dvc repro` makes again what differs"
        if done.missing:
            advice = f"{done.missing} outputs are not here: `dvc pull` brings them from a remote, {advice}"
        return f"{len(self.findings)} findings in {counts} and {len(self.checked)} further checks; {advice}"

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        done = self.hashed
        counts = {key: getattr(done, key) for key in ("stages", "outputs", "files", "missing")}
        return {
            "ok": self.ok,
            "counts": {**counts, "bytes": done.size, "checks": len(self.checked), "findings": len(self.findings)},
            "findings": [asdict(finding) for finding in self.findings],
            "checked": list(self.checked),
        }


@dataclass
class _Checks:
    """Checks that were made: what each said, or what was wrong."""

    said: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def make(self, stage: str, check: Callable[..., str], *about: Any) -> None:
        """Make one check; damaged files are findings, whatever the libraries that read them say."""
        try:
            self.said.append(check(*about))
        except UserError as problem:
            self.findings.append(Finding("wrong", stage, str(problem)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
            told = " ".join(f"{type(problem).__name__} {problem}".split())[:200]
            self.findings.append(Finding("wrong", stage, f"its results cannot be read ({told})"))


def verify_results() -> Verdict:
    """Verify the study in the current folder; UserError where there is none.

    A check whose files are not here is left out: that they are missing is a finding already.
    """
    params = load_params()
    hashed, checks = check_lock(), _Checks()
    cohort = input_hash(paths.COHORT) if (paths.COHORT / SAMPLES).is_file() else None
    for name, entry in params.encoders.items():
        if (paths.weights_path(name) / RECORD).is_file():
            checks.make(f"weights@{name}", _check_weights, name, entry.model)
        if paths.store_path(name).is_dir():
            checks.make(f"embed@{name}", _check_store, name, cohort)
    scored = [(name, task) for name in params.encoders for task in TASKS if _scored(name, task)]
    if paths.SPLITS.is_file():
        tested: dict[str, ByPart] = {}
        checks.make("splits", _check_splits, tested)
        for name, task in scored if tested else ():
            checks.make(f"probe_{task}@{name}", _check_scores, name, task, tested[task])
    if paths.COMPARE.is_file() and len(scored) == len(TASKS) * len(params.encoders):
        checks.make("compare", _check_comparison, params)
    return Verdict(tuple(checks.said), (*hashed.findings, *checks.findings), hashed)


def _scored(encoder: str, task: str) -> bool:
    return paths.metrics_path(task, encoder).is_file() and paths.predictions_path(task, encoder).is_file()


def _check_weights(encoder: str, model: str) -> str:
    """Hold the files of a checkpoint against release.json, and against the hashes that the authors publish."""
    folder = paths.weights_path(encoder)
    checkpoint = recorded(folder)
    if not isinstance(checkpoint, Checkpoint):
        return f"{folder}: {checkpoint or 'a baseline without weights'}"
    hashes = hashes_of(checkpoint.folder)
    if checkpoint.verified and not is_release(get_encoder(model).card.release(str(checkpoint.release)), hashes):
        raise UserError(
            f"{checkpoint.folder} is recorded as {checkpoint.release}, but its files have other hashes than were "
            f"published: fetch them again (`dvc repro -f weights@{encoder}`)"
        )
    return f"{checkpoint.folder}: {len(hashes)} files have the hashes of {RECORD}"


def _check_store(encoder: str, cohort: str | None) -> str:
    """Read every vector of a store, and hold what it says it was made of against cohort and weights as they are."""
    path = paths.store_path(encoder)
    vectors, made_of = check_store(path)
    if made_of.get("absent") is not None:
        return f"{path}: {made_of['absent']}"
    today = {"cohort_sha256": cohort}
    if (paths.weights_path(encoder) / RECORD).is_file():
        record = read_record(paths.weights_path(encoder))
        today["checkpoint_sha256"] = record.get("sha256")
    other = [key for key, value in today.items() if key == "checkpoint_sha256" or value is not None]
    other = [key for key in other if made_of.get(key) != today[key]]
    if other:
        raise UserError(
            f"{path} was made of something else than is here: "
            + ", ".join(
                f"{key} {str(made_of.get(key))[:12]} in the store, {str(today[key])[:12]} here" for key in other
            )
            + f"; run `dvc repro embed@{encoder}`"
        )
    return f"{path}: {vectors} vectors, all finite, of the cohort and weights that are here"


def _check_splits(tested: dict[str, ByPart]) -> str:
    """Check the splits; fills `tested` with the test patients by task."""
    splits = pd.read_parquet(paths.SPLITS)
    twice = splits.duplicated(["task", "label", "split", "patient_id"])
    if twice.any():
        raise UserError(f"{paths.SPLITS} has patients twice in a split: {some(splits.patient_id[twice].unique())}")
    tests = splits[splits.role == "test"]
    tested |= {task: _by_part(tests[tests.task == task]) for task in TASKS}
    return f"{paths.SPLITS}: every patient once a split, {splits.label.nunique()} labels"


def _check_scores(encoder: str, task: str, tested: ByPart) -> str:
    """Recompute every defined per-split score from the stored predictions, made for the split's test patients alone."""
    labels = read_json(paths.metrics_path(task, encoder))["labels"]
    by_part = _by_part(pd.read_parquet(paths.predictions_path(task, encoder)))
    checked = 0
    for label, entry in labels.items():
        for split, value in enumerate(entry["per_split"]):
            if value is None:
                continue
            part, test = by_part.get((label, split)), tested.get((label, split))
            if part is None or test is None or sorted(part["patient_id"]) != sorted(test["patient_id"]):
                raise UserError(
                    f"{label}, split {split} of {encoder}: the predictions are not those of the split's test patients, "
                    "each once; run `dvc repro`"
                )
            score = part["score"].astype(float)
            if task == "mutation":
                again = auroc(part["truth"].astype(bool), score)
            else:
                again = harrell_c(part["time"].astype(float), part["event"].astype(bool), score)
            if not np.isclose(again, value, rtol=0, atol=ROUNDING):
                raise UserError(
                    f"{label}, split {split} of {encoder}: the metrics say {value}, the predictions {again:.6f}; "
                    "run `dvc repro`"
                )
            checked += 1
    return f"{paths.metrics_path(task, encoder)}: {checked} scores equal to those recomputed from the predictions"


def _check_comparison(params: Params) -> str:
    """Recompute every difference to the reference encoder and its p-value, without drawing patients again."""
    metrics = {name: {task: read_json(paths.metrics_path(task, name)) for task in TASKS} for name in params.encoders}
    again = compare.run(metrics, {}, pd.Series(dtype=str), params, n_boot=0)
    known, checked = read_json(paths.COMPARE), 0
    for task, comparisons in again["tasks"].items():
        stored = known.get("tasks", {}).get(task, {}).get("against_reference", {})
        for name, entry in comparisons["against_reference"].items():
            for key in ("mean", "p_calibrated"):
                if stored.get(name, {}).get(key) != entry[key]:
                    raise UserError(
                        f"{task}: {paths.COMPARE} says {key} {stored.get(name, {}).get(key)} of {name} against "
                        f"{again['reference']}, the metrics {entry[key]}; run `dvc repro`"
                    )
            checked += entry["mean"] is not None
    return f"{paths.COMPARE}: {checked} differences equal to those recomputed from the metrics"


def _by_part(table: pd.DataFrame) -> ByPart:
    columns = {str(name): table[name].to_numpy() for name in table.columns}
    rows: dict[Any, Any] = table.groupby(["label", "split"], observed=True).indices
    return {
        (str(key[0]), int(str(key[1]))): {name: column[chosen] for name, column in columns.items()}
        for key, chosen in rows.items()
    }
