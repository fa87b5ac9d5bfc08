"""The `bulkprobe` command, for people without DVC and for looking into what the pipeline made."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from bulkprobe import __version__
from bulkprobe.errors import Damaged, UserError, printable
from bulkprobe.foreign import MOST_SETTINGS_BYTES, bytes_of, load_yaml
from bulkprobe.stages import few_heaps, one_thread
from bulkprobe.stages.running import stoppable

SCALE_HELP = (
    "Scale of a file that does not say it: counts, tpm, fpkm, rsem_normalised, log2_tpm_plus_0.001, "
    "log2_counts_plus_1, log1p_tpm or zscore."
)
GENES_HELP = "Symbols, Ensembl ids and lengths that a file lacks: a table, a GTF, or HGNC's table of aliases."
TRANSCRIPTS_HELP = "Transcript and gene in two columns, or a GTF (Salmon, kallisto)."
SETTINGS_HELP = "KEY=VALUE, in place of params.yaml's, for example probe_survival.types=[KIRC]."
STRAND_HELP = "Of STAR's ReadsPerGene.out.tab: unstranded, forward or reverse; judged by the reads without it."

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
    one_thread()
    few_heaps()
    try:
        with stoppable():
            app()
    except (UserError, OSError) as problem:  # a full disk or a file that may not be read is no bug of ours
        if os.environ.get("BULKPROBE_DEBUG"):
            raise
        sys.exit(f"error: {printable(str(problem))}")


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
    """List the encoders: releases, what they read, how a vector comes about, licences, what they saw in training."""
    from bulkprobe.stages.describe import describe_encoders

    for line in describe_encoders():
        typer.echo(printable(line))


@app.command()
def fetch(
    target: Annotated[str, typer.Argument(help="tcga, or ENCODER[:RELEASE].")],
) -> None:
    """Download the official TCGA files, or an encoder's weights; broken downloads are taken up again."""
    if target == "tcga":
        from bulkprobe.params import load_params
        from bulkprobe.stages.fetch import fetch_official

        fetch_official(load_params())
        return
    from bulkprobe.stages.embed_input import fetch_target

    found = fetch_target(target)
    checked = "checked against the published hashes" if found.verified else "not all hashes are published: unverified"
    typer.echo(f"{found.folder} holds the release, {checked}")


@app.command()
def cohort(
    files: Annotated[
        Path, typer.Option(help="YAML with expression, expression_scale, samples, survival, mutations, columns.")
    ],
    output: Annotated[Path, typer.Option(help="The cohort folder to write.")],
) -> None:
    """Build a cohort folder from a lab's own tables (README.md, "Your own cohort", has an example of FILES)."""
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
        content = load_yaml(bytes_of(path, MOST_SETTINGS_BYTES).decode("utf-8-sig"))
    except (Damaged, UnicodeDecodeError) as problem:
        raise UserError(f"{path} is not valid YAML: {problem}") from None
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
def check(
    source: Annotated[Path, typer.Argument(help="A cohort folder, an AnnData file, a table or a quantifier's folder.")],
    scale: Annotated[str | None, typer.Option(help=SCALE_HELP)] = None,
    genes: Annotated[Path | None, typer.Option(help=GENES_HELP)] = None,
    transcripts: Annotated[Path | None, typer.Option(help=TRANSCRIPTS_HELP)] = None,
    strand: Annotated[str | None, typer.Option(help=STRAND_HELP)] = None,
) -> None:
    """Validate a cohort; per encoder: genes it knows, what it would leave out, and time and memory on this machine."""
    from bulkprobe.cohort.check import check_cohort
    from bulkprobe.stages.describe import describe_fit

    if (source / "samples.parquet").exists():
        for finding in check_cohort(source):
            typer.echo(printable(f"{finding.level}: {finding.text}"))
    for line in describe_fit(source, scale, genes=genes, transcripts=transcripts, strand=strand):
        typer.echo(printable(line))


@app.command()
def embed(
    encoder: Annotated[str, typer.Argument(help="A name in params.yaml, else a model's name.")],
    source: Annotated[
        Path, typer.Option("--input", help="A cohort folder, .h5ad, .zarr, a table, a quantifier's folder.")
    ],
    output: Annotated[Path, typer.Option(help="The embedding store to write, a folder ending in .zarr.")],
    checkpoint: Annotated[Path | None, typer.Option(help="A folder in the released layout.")] = None,
    release: Annotated[str | None, typer.Option(help="A release (`bulkprobe encoders`), or untrained.")] = None,
    scale: Annotated[str | None, typer.Option(help=SCALE_HELP)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples handed over at a time.")] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Samples a file.")] = 512,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16.")] = None,
    cluster: Annotated[str | None, typer.Option(help="none, local, slurm or tcp://HOST:PORT.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes or jobs of the cluster.")] = None,
    add_to: Annotated[Path | None, typer.Option(help="An .h5ad that gets the vectors as obsm.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, an option of the encoder.")] = None,
    genes: Annotated[Path | None, typer.Option(help=GENES_HELP)] = None,
    transcripts: Annotated[Path | None, typer.Option(help=TRANSCRIPTS_HELP)] = None,
    strand: Annotated[str | None, typer.Option(help=STRAND_HELP)] = None,
    like: Annotated[
        Path | None, typer.Option(help="A store or stored probes: take over options and target_sum.")
    ] = None,
) -> None:
    """Embed every sample of a cohort; running again resumes, a finished store is verified and left alone."""
    from bulkprobe.stages.embed_input import embed_input

    written = embed_input(
        encoder,
        source,
        output,
        checkpoint=checkpoint,
        release=release,
        scale=scale,
        options=_settings(settings or []),
        shard_size=shard_size,
        batch_size=batch_size,
        device=device,
        precision=cast("Literal['float32', 'bfloat16'] | None", precision),
        add_to=add_to,
        genes=genes,
        transcripts=transcripts,
        strand=strand,
        like=like,
        cluster=cluster,
        workers=workers,
    )
    typer.echo(f"{output} {'is written' if written else 'was complete and is left as it is'}")


def _settings(settings: list[str]) -> dict[str, Any]:
    """Read KEY=VALUE texts; values are YAML, so that numbers are numbers."""
    given: dict[str, Any] = {}
    for setting in settings:
        key, found, value = setting.partition("=")
        if not found:
            raise UserError(f"--set {setting!r} has no '=': write --set KEY=VALUE")
        try:
            given[key] = load_yaml(value)
        except Damaged:
            raise UserError(f"--set {setting!r}: {value!r} is no YAML value; quote it if it is a text") from None
    return given


@app.command()
def probe(
    store: Annotated[Path, typer.Argument(help="An embedding store.")],
    cohort: Annotated[Path, typer.Option(help="The cohort folder it was made of.")],
    task: Annotated[str, typer.Option(help="mutation or survival.")],
    output: Annotated[Path, typer.Option(help="The metrics file to write.")],
    splits: Annotated[Path | None, typer.Option(help="A splits table; made anew from params.yaml without it.")] = None,
    save: Annotated[Path | None, typer.Option(help="Also fit on all patients and store these probes (.npz).")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help=SETTINGS_HELP)] = None,
    cluster: Annotated[str, typer.Option(help="none, local, slurm or tcp://HOST:PORT.")] = "none",
    workers: Annotated[int, typer.Option(min=1, help="Processes or jobs of the cluster.")] = 2,
) -> None:
    """Probe a store as the pipeline does, with the settings of params.yaml, or the shipped ones where there is none."""
    from bulkprobe.api import own_params, probe_store
    from bulkprobe.stages.embed import plan_of
    from bulkprobe.stages.probe_lines import told

    params, chosen = own_params(), _settings(settings or [])
    plan = plan_of(params.embed, cluster, workers)
    content = probe_store(
        store, cohort, task, output, splits=splits, save=save, params=params, settings=chosen, plan=plan
    )
    for line in told(content):
        typer.echo(line)
    typer.echo(f"{output} is written" + (f", the probes are in {save}" if save else ""))


@app.command()
def predict(
    probes: Annotated[Path, typer.Argument(help="Probes stored by `bulkprobe probe --save`.")],
    store: Annotated[Path, typer.Argument(help="An embedding store of the same encoder.")],
    output: Annotated[Path, typer.Option(help="The table to write (.parquet, .csv or .tsv).")],
    cohort: Annotated[Path | None, typer.Option(help="That cohort's folder: also say AUROC or C-index there.")] = None,
) -> None:
    """Apply stored probes to another cohort's embeddings."""
    from bulkprobe.api import predict_store, score_predictions

    table = predict_store(probes, store, output)
    for line in () if cohort is None else score_predictions(table, cohort):
        typer.echo(line)
    typer.echo(f"{output} is written")


@app.command()
def report() -> None:
    """Write the report again from the pipeline's results."""
    from bulkprobe.stages.summary import main as summary

    typer.echo(summary())


@app.command()
def diff(
    before: Annotated[str, typer.Argument(metavar="REV1", help="A git revision, an experiment's name, or workspace.")],
    after: Annotated[str, typer.Argument(metavar="REV2", help="What it is compared with.")] = "workspace",
    output: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Markdown instead of plain text.")] = False,
) -> None:
    """Compare two experiments: settings, files, and which scores moved by more than chance."""
    from bulkprobe.files import write_json
    from bulkprobe.stages.diff import diff as compare
    from bulkprobe.stages.diff_text import lines

    result = compare(before, after)
    if output is not None:
        write_json(output, result)
    for line in lines(result, markdown):
        typer.echo(printable(line))


@app.command()
def verify(
    output: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say what differs, not what was checked.")] = False,
) -> None:
    """Hash data, weights, stores and metrics again, hold them against dvc.lock and each other, recompute the scores.

    Status 1 where anything differs: changed, missing, not locked, stale (made with other inputs, settings or code), or
    wrong (two files that do not fit together).
    """
    from bulkprobe.api import verify_results
    from bulkprobe.files import write_json

    verdict = verify_results()
    if output is not None:
        write_json(output, verdict.as_dict())
    for line in (*(() if quiet else verdict.checked), *verdict.findings):
        typer.echo(printable(str(line)))
    if not verdict.ok:
        sys.exit(verdict.summary())
    typer.echo(verdict.summary())


if __name__ == "__main__":  # python -m bulkprobe.cli
    main()
