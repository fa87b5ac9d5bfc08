"""The `bulkprobe` command, for people without DVC and for looking into what the pipeline made."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from bulkprobe import __version__
from bulkprobe.errors import UserError, some

STORE_ENTRIES = frozenset({"zarr.json", "embedding", "sample_id", ".DS_Store"})

app = typer.Typer(
    help="Do gene-expression foundation models carry over to bulk RNA-seq of tumours?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command; a user's error is one sentence on stderr and status 1."""
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        os.environ["BULKPROBE_DEBUG"] = "1"
    try:
        app()
    except (UserError, OSError) as problem:  # a full disk or a file that may not be read is no bug of ours
        if os.environ.get("BULKPROBE_DEBUG"):
            raise
        sys.exit(f"error: {problem}")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bulkprobe {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, help="Show the version.")] = False,
) -> None:
    """Add --debug to any command for a traceback instead of one sentence."""


@app.command()
def encoders() -> None:
    """List the encoders: what they read, how one vector a sample comes about, licences, what they saw in training."""
    from bulkprobe.encoders import MODELS, get_encoder

    for name in MODELS:
        card = get_encoder(name).card
        typer.echo(f"{name}: {card.title}")
        facts = {
            "kind": card.kind,
            "reads": ", ".join(card.scales) or "the sample table, no expression",
            "gene ids": card.gene_ids,
            "vector": card.pooling,
            "options": ", ".join(f"{key}={value}" for key, value in card.defaults.items()) or "none",
            "code": card.licence_code,
            "weights": card.licence_weights,
            "saw in training": card.pretraining,
        }
        for key, value in facts.items():
            typer.echo(f"    {key + ':':<17}{value}")


@app.command()
def fetch(target: Annotated[str, typer.Argument(help="tcga, as params.yaml describes it.")]) -> None:
    """Download the official TCGA files into data/raw; finished files are kept, broken downloads are taken up again."""
    from bulkprobe.params import load_params
    from bulkprobe.stages.fetch import fetch_official

    if target != "tcga":
        raise UserError(f"there is nothing to fetch for {target!r}: `bulkprobe fetch tcga` is what exists")
    fetch_official(load_params())


@app.command()
def cohort(
    files: Annotated[Path, typer.Option(help="YAML file that describes your tables.")],
    output: Annotated[Path, typer.Option(help="The cohort folder to write.")],
) -> None:
    """Build a cohort folder from a lab's own tables."""
    from bulkprobe.cohort.build import build_lab_cohort
    from bulkprobe.cohort.schema import CohortRules

    config = _read_config(files)
    rules = CohortRules.from_mapping(config.pop("rules", None) or {})
    build_lab_cohort(config, files.resolve().parent, output, rules)
    typer.echo(f"the cohort is in {output}; `bulkprobe check {output}` tells what can be probed in it")


def _read_config(path: Path) -> dict[str, Any]:
    """Read a configuration: the `files` section itself, or a params.yaml that holds it."""
    if not path.is_file():
        raise UserError(f"{path} is not there: give the YAML file that describes your tables")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(problem).split())}") from None
    if content is None:
        raise UserError(f"{path} is empty: write expression, expression_scale and samples into it")
    outer = content.get("cohort", content) if isinstance(content, dict) else content
    if isinstance(outer, dict) and "files" in outer:
        content = outer["files"]
        if isinstance(content, dict):
            content = {**content, "rules": outer.get("rules")}
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}, but a mapping (expression, samples, …) was expected")
    if not isinstance(content.get("rules") or {}, dict):
        raise UserError(f"{path}: rules is {content['rules']!r}, but a mapping was expected; write key: value lines")
    return content


@app.command()
def check(folder: Annotated[Path, typer.Argument(help="A cohort folder.")]) -> None:
    """Validate a cohort folder, and say what can be probed in it and which encoders can read it."""
    from bulkprobe.cohort.check import check_cohort
    from bulkprobe.cohort.store import open_expression
    from bulkprobe.encoders import MODELS, get_encoder

    for finding in check_cohort(folder):
        typer.echo(f"{finding.level}: {finding.text}")
    scale = open_expression(folder).scale
    for name in MODELS:
        card = get_encoder(name).card
        readable = not card.scales or scale in card.scales
        typer.echo(f"encoder {name}: {'can read it' if readable else f'cannot read the scale {scale}'}")


@app.command()
def embed(
    encoder: Annotated[str, typer.Argument(help="A name in params.yaml, else a model's name.")],
    source: Annotated[Path, typer.Option("--input", help="A cohort folder.")],
    output: Annotated[Path, typer.Option(help="The embedding store to write, a folder ending in .zarr.")],
    shard_size: Annotated[int, typer.Option(min=1, help="Samples a file.")] = 512,
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, an option of the encoder.")] = None,
) -> None:
    """Embed every sample of a cohort; running again resumes, a finished store is verified and left alone."""
    from bulkprobe.params import PARAMS_FILE, load_params
    from bulkprobe.stages.embed import embed_cohort

    _refuse_foreign_store(output)
    entries = load_params().encoders if PARAMS_FILE.is_file() else {}
    entry = entries.get(encoder)
    given = dict(entry.options) if entry else {}
    for setting in settings or []:
        key, found, value = setting.partition("=")
        if not found:
            raise UserError(f"--set {setting!r} has no '=': write --set KEY=VALUE")
        try:
            given[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"--set {setting!r}: {value!r} is no YAML value; quote it if it is a text") from None
    written = embed_cohort(encoder, entry.model if entry else encoder, source, output, given, shard_size)
    typer.echo(f"{output} {'is written' if written else 'was complete and is left as it is'}")


def _refuse_foreign_store(output: Path) -> None:
    """A store replaces what stands there: never anything but an older store."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: give the name of a new folder for the embeddings")
    strange = {path.name for path in output.iterdir()} - STORE_ENTRIES if output.is_dir() else set()
    if strange:
        raise UserError(
            f"{output} is no embedding store (it holds {some(sorted(strange))}) and would be replaced: give a new "
            "folder"
        )


@app.command()
def probe(
    store: Annotated[Path, typer.Argument(help="An embedding store.")],
    cohort: Annotated[Path, typer.Option(help="The cohort folder it was made of.")],
    task: Annotated[str, typer.Option(help="mutation or survival.")],
    output: Annotated[Path, typer.Option(help="The metrics file to write.")],
    splits: Annotated[Path | None, typer.Option(help="A splits table; made anew from params.yaml without it.")] = None,
    save: Annotated[Path | None, typer.Option(help="Also fit on all patients and store these probes (.npz).")] = None,
) -> None:
    """Probe a store as the pipeline does, with the settings of params.yaml."""
    from bulkprobe.api import probe_store

    probe_store(store, cohort, task, output, splits=splits, save=save)
    typer.echo(f"{output} is written" + (f", the probes are in {save}" if save else ""))


@app.command()
def predict(
    probes: Annotated[Path, typer.Argument(help="Probes stored by `bulkprobe probe --save`.")],
    store: Annotated[Path, typer.Argument(help="An embedding store of the same encoder.")],
    output: Annotated[Path, typer.Option(help="The table to write (.parquet, .csv or .tsv).")],
) -> None:
    """Apply stored probes to another cohort's embeddings."""
    from bulkprobe.api import predict_store

    predict_store(probes, store, output)
    typer.echo(f"{output} is written")


@app.command()
def report() -> None:
    """Write the report again from the pipeline's results."""
    from bulkprobe.stages.summary import main as summary

    typer.echo(summary())


@app.command()
def verify() -> None:
    """Check the pipeline's results against each other: splits, stores, and metrics recomputed from predictions."""
    from bulkprobe.api import verify_results

    for line in verify_results():
        typer.echo(line)
