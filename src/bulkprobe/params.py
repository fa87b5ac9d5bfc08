"""Typed sections of params.yaml. An unknown, missing or impossible value is an error that names section and key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bulkprobe.errors import Damaged, UserError
from bulkprobe.foreign import MOST_SETTINGS_BYTES, bytes_of, load_yaml, plain_name

PARAMS_FILE = Path("params.yaml")
SHIPPED = Path(__file__).with_name("params.yaml")  # a link to the project's own, a copy of it in a built package


class Section(BaseModel):
    """A part of params.yaml: every key is known, none is silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Base(Section):
    """What every stage shares."""

    seed: int = Field(ge=0)


class Simulated(Section):
    """Size of the simulated cohort."""

    patients: int = Field(ge=200)
    genes: int = Field(ge=300)


class Tcga(Section):
    """Which official expression files are used; `projects` narrows the GDC route to some studies."""

    expression: Literal["xena_toil", "gdc_star"]
    projects: list[str] | None


class Cohort(Section):
    """Where the cohort comes from. `files` and `rules` are read by the cohort room, which owns their keys."""

    source: Literal["simulated", "tcga", "files"]
    simulated: Simulated
    tcga: Tcga
    files: dict[str, Any]
    rules: dict[str, Any]


class Fetch(Section):
    """How downloads run."""

    workers: int = Field(ge=1, le=64)
    retries: int = Field(ge=0, le=100)


class Splits(Section):
    """Repeated random splits of patients."""

    n_splits: int = Field(ge=1, le=1000)
    test_fraction: float = Field(gt=0, lt=1)
    inner_folds: int = Field(ge=2, le=20)
    scheme: Literal["random", "site"]


class Slurm(Section):
    """What a SLURM job, which is one worker, asks for; `extra` goes to dask_jobqueue.SLURMCluster as it is."""

    queue: str | None = Field(default=None, pattern=r"^\S+$")
    account: str | None = Field(default=None, pattern=r"^\S+$")
    cores: int = Field(default=8, ge=1)
    memory: str = Field(default="32GB", pattern=r"^[0-9.]*[1-9][0-9.]* ?[kMGT]i?B$")
    walltime: str = Field(default="04:00:00", pattern=r"^([0-9]+-)?[0-9]+(:[0-9]{1,2}){0,2}$")
    gpus: int = Field(default=0, ge=0)
    extra: dict[str, Any] = {}


class Embed(Section):
    """How and where embeddings are computed and stored. In float32 on a CPU none of it changes a number."""

    shard_size: int = Field(ge=1)
    device: str = Field(pattern=r"^(cpu|cuda(:\d+)?)$")
    precision: Literal["float32", "bfloat16"]
    cluster: str = "none"
    workers: int = Field(default=1, ge=1)
    retries: int = Field(default=3, ge=0)
    adaptive: bool = False
    slurm: Slurm = Slurm()

    @field_validator("cluster")
    @classmethod
    def _cluster(cls, value: str) -> str:
        found = re.fullmatch(r"none|local|slurm|tcp://[^\s/]+:(\d{1,5})", value)
        if found is None or not 0 < int(found[1] or 1) < 65536:  # as cluster.py has it
            raise ValueError("none, local, slurm or tcp://HOST:PORT was expected")
        return value


class EncoderEntry(Section):
    """One encoder of the study: the model it runs, the release of its weights, and the model's own options."""

    model: str
    release: str | None
    enabled: bool
    untrained_twin: bool = False  # this entry is the release with its tensors drawn again
    options: dict[str, Any]


def _descending(values: list[float]) -> list[float]:
    if not values or any(v <= 0 for v in values) or len(set(values)) != len(values):
        raise ValueError("penalties must be distinct positive numbers")
    return sorted(values, reverse=True)


class ProbeMutation(Section):
    """Labels and tuning of the mutation probes."""

    genes: list[str]
    hotspot_genes: list[str]
    within_type: dict[str, list[str]]
    min_positives: int = Field(ge=2)
    penalties: list[float]
    selection: Literal["lowest", "one_standard_error"]
    common_width: int | None = Field(ge=1)

    _penalties = field_validator("penalties")(_descending)


class ProbeSurvival(Section):
    """Cohorts, endpoints and tuning of the survival probes."""

    types: list[str]
    endpoints: list[Literal["OS", "DSS", "DFI", "PFI"]]
    min_events: int = Field(ge=2)
    penalties: list[float]
    selection: Literal["lowest", "one_standard_error"]
    common_width: int | None = Field(ge=1)
    ties: Literal["efron", "breslow"]
    l1_ratio: float = Field(ge=0, le=1)

    _penalties = field_validator("penalties")(_descending)


class GeneSets(Section):
    """Which gene sets, and how many genes of one must be measured."""

    collection: str
    least: int = Field(ge=2)
    most: int = Field(ge=2)


class ShiftEncoder(Section):
    """An encoder whose distributional shift is measured."""

    model: str
    ladder: bool
    feeding: bool


class Shift(Section):
    """How far bulk input lies from single cells: reference, depth ladder, ways of feeding."""

    reference: str | None
    samples: int | None = Field(ge=20)
    cell_depth: int = Field(ge=100)
    depths: list[int]
    ladder_splits: int = Field(ge=1)
    feeding_types: list[str] | None
    encoders: dict[str, ShiftEncoder]

    @field_validator("depths")
    @classmethod
    def _depths(cls, values: list[int]) -> list[int]:
        if not values or any(v < 1 for v in values) or len(set(values)) != len(values):
            raise ValueError("depths must be distinct positive numbers of counts")
        return sorted(values, reverse=True)


class BiologyEncoder(Section):
    """An encoder whose gene vectors are scored."""

    model: str
    contextual: bool


class Biology(Section):
    """Whether gene vectors know which genes belong together."""

    random_sets: int = Field(ge=20)
    contextual_samples: int = Field(ge=2)
    paralogs: str
    encoders: dict[str, BiologyEncoder]


class Compare(Section):
    """Paired comparisons: the encoder that all others are compared with, draws of the bootstrap, level of intervals."""

    reference: str
    n_boot: int = Field(ge=20, le=100_000)
    level: float = Field(ge=0.5, lt=1)


class Params(Section):
    """The whole of params.yaml."""

    base: Base
    fetch: Fetch
    cohort: Cohort
    splits: Splits
    embed: Embed
    encoders: dict[str, EncoderEntry]
    probe_mutation: ProbeMutation
    probe_survival: ProbeSurvival
    gene_sets: GeneSets
    shift: Shift
    biology: Biology
    compare: Compare


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check params.yaml; UserError with one sentence per problem where it is not usable."""
    if not path.is_file():
        raise UserError(f"{path} is not here: run the command in the project's top folder")
    try:
        content = load_yaml(bytes_of(path, MOST_SETTINGS_BYTES).decode())
    except (Damaged, UnicodeDecodeError) as problem:
        raise UserError(f"{path} is not valid YAML: {problem}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}, but a mapping of sections was expected")
    try:
        params = Params.model_validate(content)
    except ValidationError as problem:
        raise UserError("; ".join(_sentences(path, problem))) from None
    if crooked := [name for name in params.encoders if not plain_name(name) or name.startswith(("-", "."))]:
        raise UserError(
            f"{path}: encoders has the name {crooked[0]!r}, but names become those of files: use letters, digits, '_'"
        )
    if params.compare.reference not in params.encoders:
        raise UserError(
            f"{path}: compare.reference is {params.compare.reference!r}, but section encoders has no such name: "
            f"give one of {', '.join(params.encoders)}"
        )
    _check_twins(path, params)
    _check_measured(path, params)
    return params


def with_settings(params: Params, settings: Mapping[str, Any]) -> Params:
    """Return parameters with some values replaced, by key with dots; UserError as for params.yaml itself."""
    content = params.model_dump()
    for key, value in settings.items():
        *sections, last = key.split(".")
        place = content
        for section in sections:
            place = place[section] if isinstance(place.get(section), dict) else place.setdefault(section, {})
        place[last] = value
    try:
        return Params.model_validate(content)
    except ValidationError as problem:
        raise UserError("; ".join(_sentences(Path("--set"), problem))) from None


def _check_measured(path: Path, params: Params) -> None:
    """Sections shift and biology name encoders again, since DVC needs their models there: the two must agree."""
    named: list[tuple[str, str, str]] = [("shift", name, entry.model) for name, entry in params.shift.encoders.items()]
    named += [("biology", name, entry.model) for name, entry in params.biology.encoders.items()]
    for section, name, model in named:
        known = params.encoders.get(name)
        if known is None or known.model != model:
            there = "has no such encoder" if known is None else f"says {known.model!r}"
            raise UserError(
                f"{path}: {section}.encoders.{name} has the model {model!r}, but section encoders {there}: change or "
                "remove the entry"
            )


def _check_twins(path: Path, params: Params) -> None:
    """A twin stands beside the encoder it is the twin of, under that name and `_untrained`: so it is found again."""
    for name, entry in params.encoders.items():
        owner = params.encoders.get(name.removesuffix("_untrained"))
        if not entry.untrained_twin:
            continue
        if owner is None or owner is entry or (owner.model, owner.release) != (entry.model, entry.release):
            raise UserError(
                f"{path}: encoders.{name} is an untrained twin, so it must be called <encoder>_untrained and have the "
                "model and release of the entry <encoder>"
            )


def _sentences(path: Path, problem: ValidationError) -> Iterator[str]:
    for error in problem.errors():
        place = [str(part) for part in error["loc"]]
        where = ".".join(place)
        if error["type"] == "extra_forbidden":
            known = _known_keys(Params, place[:-1])
            near = difflib.get_close_matches(place[-1], known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            section = ".".join(place[:-1]) or "the top level"
            yield f"{path}: section {section} has the unknown key {place[-1]!r}; {hint}"
        elif error["type"] == "missing":
            yield f"{path}: {where} is missing; add it (see the params.yaml of the release)"
        else:
            yield f"{path}: {where} is {error['input']!r}, but {_lower(error['msg'])}"


def _lower(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _known_keys(section: type[BaseModel], place: list[str]) -> list[str]:
    """The keys of the section at `place`; a mapping of sections (encoders) takes one step more."""
    for key in place:
        field = section.model_fields.get(key)
        if field is None:
            continue  # the free key of a mapping, such as an encoder's name
        candidates = [field.annotation, *get_args(field.annotation)]
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not nested:
            return []
        section = nested[0]
    return list(section.model_fields)
