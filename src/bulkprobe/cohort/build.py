"""From `data/raw/` (or a lab's own tables) to the cohort folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from bulkprobe import files
from bulkprobe.cohort.clinical import add_covariates, cdr_patients, read_purity
from bulkprobe.cohort.expression import ExpressionSource, XenaMatrix
from bulkprobe.cohort.expression_files import read_lab_expression
from bulkprobe.cohort.flow import Flow
from bulkprobe.cohort.gdc_star import GdcStar
from bulkprobe.cohort.genes import read_gtf
from bulkprobe.cohort.lab_mutations import lab_mutations, table_header
from bulkprobe.cohort.lab_survival import lab_survival
from bulkprobe.cohort.lab_tables import check_columns, lab_samples, read_table
from bulkprobe.cohort.labels import hypermutated, join_mutations, read_maf
from bulkprobe.cohort.legible import read_text_table
from bulkprobe.cohort.quantifier_formats import KINDS
from bulkprobe.cohort.quantifiers import quantified
from bulkprobe.cohort.read import write_columns
from bulkprobe.cohort.samples import read_quality, tcga_samples
from bulkprobe.cohort.schema import (
    EXPRESSION,
    FLOW,
    MUTATION_COLUMNS,
    MUTATIONS,
    PROVENANCE,
    SAMPLE_COLUMNS,
    SAMPLES,
    SURVIVAL,
    SURVIVAL_COLUMNS,
    CohortRules,
    FilesConfig,
)
from bulkprobe.cohort.store import open_expression, write_expression
from bulkprobe.cohort.survival import all_censored, listed, read_cdr, survival_table
from bulkprobe.errors import UserError, some
from bulkprobe.sources import schema as raw_names

XENA, STAR = "xena_toil", "gdc_star"


def build_cohort(raw: Path, output: Path, rules: CohortRules) -> dict[str, Any]:
    """Build the cohort folder from a raw folder and return the content of flow.json.

    What the raw folder is stands in its source.json. `output` appears whole or not at all. Errors:
    `UserError` for an incomplete raw folder and for everything that its files may be wrong in.
    """
    raw = Path(raw)
    if not (raw / raw_names.SOURCE_JSON).is_file():
        raise UserError(f"{raw.name}: no {raw_names.SOURCE_JSON}, so nothing was fetched; run `dvc repro fetch` first")
    source = files.read_json(raw / raw_names.SOURCE_JSON)
    _refuse_incomplete(raw, source["files"])
    hashes = {name: entry["sha256"] for name, entry in source["files"].items()}
    kind = (source.get("source"), source.get("expression"))
    if kind[0] == "files":
        return _build_lab(files.read_json(raw / raw_names.LAB_CONFIG), raw, Path(output), rules, hashes)
    if kind[0] not in ("simulated", "tcga") or kind[1] not in (XENA, STAR):
        raise UserError(
            f"{raw_names.SOURCE_JSON}: source {kind[0]!r} with expression {kind[1]!r}; expected simulated or tcga with "
            f"{XENA} or {STAR}, or files; fetch again"
        )
    return _build_tcga(raw, Path(output), rules, source, hashes)


def build_lab_cohort(
    config: Mapping[str, Any], base: Path, output: Path, rules: CohortRules | None = None
) -> dict[str, Any]:
    """Build the cohort folder from the section `cohort.files`, its paths being relative to `base`.

    Returns the content of flow.json. Errors: `UserError` for a bad section, absent tables, bad tables.
    """
    _refuse_foreign(Path(output))
    return _build_lab(config, Path(base), Path(output), rules or CohortRules(), None)


def _refuse_foreign(output: Path) -> None:
    """A cohort folder replaces what stands there: never anything but an older one."""
    ours = {EXPRESSION, SAMPLES, SURVIVAL, MUTATIONS, FLOW, PROVENANCE, ".DS_Store"}
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: give the name of a new folder for the cohort")
    if output.is_dir() and (foreign := sorted({path.name for path in output.iterdir()} - ours)):
        raise UserError(
            f"{output} is no cohort folder (it holds {some(foreign)}) and would be replaced: give a new folder"
        )


def _refuse_incomplete(raw: Path, listed_files: Mapping[str, Mapping[str, Any]]) -> None:
    absent = [name for name in listed_files if not (raw / name).is_file()]
    if absent:
        raise UserError(f"{raw.name}: files missing: {some(absent)}; fetch again")
    for name, entry in listed_files.items():
        size = (raw / name).stat().st_size
        if size != entry["bytes"]:
            raise UserError(
                f"{name}: {size} bytes, expected {entry['bytes']}; the file was changed or cut, fetch it again"
            )


def _build_tcga(
    raw: Path, output: Path, rules: CohortRules, source: Mapping[str, Any], hashes: Mapping[str, str]
) -> dict[str, Any]:
    flow = Flow()
    patients = cdr_patients(read_cdr(raw / raw_names.CDR_XLSX))
    quality = read_quality(raw / raw_names.SAMPLE_QUALITY)
    purity = read_purity(raw / raw_names.ABSOLUTE_PURITY)
    layers, ids, aliquots, projects = _tcga_expression(raw, str(source["expression"]), flow)
    samples = tcga_samples(ids, patients, quality, rules, flow, aliquots, projects)
    samples = add_covariates(samples, patients, purity)
    status, counted = read_maf(raw / raw_names.MC3_MAF, rules)
    flow.drop("mutations", "call passes the FILTER rule", counted["rows"], counted["rows"] - counted["accepted"])
    flow.drop(
        "mutations",
        "aliquot has an accepted call of any class, silent ones included",
        counted["aliquots"],
        counted["aliquots_without_accepted"],
    )
    mutations, burden = join_mutations(status, samples, rules, flow)
    for name, empty in ((raw_names.MC3_MAF, mutations.empty), (raw_names.CDR_XLSX, patients.empty)):
        if empty:
            raise UserError(f"{name} has nothing about any patient of the expression matrix; fetch it again")
    samples["log10_mutation_burden"] = burden.to_numpy()
    samples["hypermutated"] = hypermutated(samples, rules, flow)
    survival = _tcga_survival(patients, samples, rules, flow)
    annotation = raw_names.GENCODE_V23 if source["expression"] == XENA else raw_names.GENCODE_V36
    return _write(
        output,
        samples=samples,
        survival=survival,
        mutations=mutations,
        flow=flow,
        layers=layers,
        var=read_gtf(raw / annotation),
        scale="counts",
        provenance={
            "source": source["source"],
            "simulated": source["source"] == "simulated",
            "expression": source["expression"],
            "raw": dict(hashes),
            "rules": rules.to_mapping(),
        },
    )


def _tcga_expression(
    raw: Path, kind: str, flow: Flow
) -> tuple[dict[str, ExpressionSource | None], list[str], dict[str, str] | None, dict[str, str] | None]:
    """Return the layers, the sample ids, and for GDC files the aliquot and the project of each sample."""
    if kind == STAR:
        return _star_expression(raw)
    counts = XenaMatrix(raw / raw_names.XENA_COUNTS, "log2_counts_plus_1")
    tpm = XenaMatrix(raw / raw_names.XENA_TPM, "log2_tpm_plus_0.001")
    both = set(tpm.sample_ids)
    ids = [sample for sample in counts.sample_ids if sample in both]
    either = len(both | set(counts.sample_ids))
    flow.drop("expression", "sample has counts and TPM", either, either - len(ids))
    if not ids:
        raise UserError(
            f"no sample is in both matrices: {raw_names.XENA_COUNTS} has {some(counts.sample_ids[:3])}, "
            f"{raw_names.XENA_TPM} has {some(tpm.sample_ids[:3])}; fetch both again"
        )
    return {"X": counts, "tpm": tpm}, ids, None, None


def _star_expression(
    raw: Path,
) -> tuple[dict[str, ExpressionSource | None], list[str], dict[str, str] | None, dict[str, str] | None]:
    """Samples of the GDC go by aliquot barcode: a vial may have been sequenced more than once."""
    star = GdcStar(raw / raw_names.STAR_FOLDER)
    manifest = read_text_table(raw / raw_names.STAR_MANIFEST, "\t")
    projects = dict(zip(manifest["aliquot_barcode"], manifest["project"].str.removeprefix("TCGA-"), strict=True))
    return {"X": star.counts, "tpm": star.tpm}, list(star.sample_ids), None, projects


def _tcga_survival(patients: pd.DataFrame, samples: pd.DataFrame, rules: CohortRules, flow: Flow) -> pd.DataFrame:
    probing = samples[samples["for_probing"]]
    known = patients["patient_id"].isin(probing["patient_id"])
    if not known.any():
        raise UserError(f"{raw_names.CDR_XLSX} has no patient of the expression matrix; fetch it again")
    flow.drop("survival", "patient has a sample that enters probing", len(patients), int((~known).sum()))
    survival = survival_table(patients[known], rules, flow)
    found = all_censored(survival, probing.set_index("patient_id")["cancer_type"])
    if found:
        flow.note(f"survival: every patient is censored for OS in {listed(sorted(found.items()))}")
    return survival


def _build_lab(
    section: Mapping[str, Any], base: Path, output: Path, rules: CohortRules, hashes: Mapping[str, str] | None
) -> dict[str, Any]:
    config = FilesConfig.from_mapping(section)
    single = [path for path in (config.samples, config.survival, config.genes, config.transcripts) if path is not None]
    paths = {path: base / path for path in (*config.expression, *single, *config.mutations)}
    absent = [name for name, path in paths.items() if not path.exists()]
    if absent:
        raise UserError(f"cohort.files: no such file: {some(absent)}; correct the paths")
    if wrong := [name for name, path in paths.items() if path.is_dir() and not _readable(path, name, config)]:
        raise UserError(
            f"cohort.files: {some(wrong)} is a folder, expected a file (or, for expression, a .zarr folder or one with "
            f"the output of {KINDS}); correct the path"
        )
    flow = Flow()
    tables = {name: table_header(paths[name]) for name in (config.samples, config.survival, *config.mutations) if name}
    check_columns(config, {Path(name).name: header for name, header in tables.items()})
    expression = read_lab_expression(
        [paths[name] for name in config.expression],
        config.expression_scale,
        config.orientation,
        genes=None if config.genes is None else paths[config.genes],
        transcripts=None if config.transcripts is None else paths[config.transcripts],
        strand=config.strand,
    )
    if "transcripts_summed" in expression.notes:
        flow.note(
            f"expression: transcripts summed to genes, counts and TPM alike ({expression.notes['transcripts_summed']} "
            f"transcripts; {expression.notes['transcripts_without_gene']} without a gene left out)"
        )
    table = read_table(paths[config.samples])
    samples = lab_samples(table, expression.sample_ids, config, rules, flow)
    follow_up = table if config.survival is None else read_table(paths[config.survival])
    survival = lab_survival(follow_up, samples, config, rules, flow)
    mutations = pd.DataFrame(columns=list(MUTATION_COLUMNS), dtype=object)
    if config.mutations:
        status = lab_mutations([paths[name] for name in config.mutations], samples, config, rules, flow)
        mutations, burden = join_mutations(status, samples, rules, flow)
        known = samples["log10_mutation_burden"]
        samples["log10_mutation_burden"] = known.where(known.notna(), burden.set_axis(samples.index))
    samples["hypermutated"] = hypermutated(samples, rules, flow)
    if hashes is None:
        hashes = {
            Path(name).name if Path(name).is_absolute() else Path(name).as_posix(): _hash(path)
            for name, path in paths.items()
        }
    own = {kind: dict(named) for kind, named in config.cancer_types.items() if isinstance(named, Mapping)}
    return _write(
        output,
        samples=samples,
        survival=survival,
        mutations=mutations,
        flow=flow,
        layers={"X": expression, "tpm": expression.tpm},
        var=expression.var,
        scale=expression.scale,
        provenance={
            "source": "files",
            "simulated": False,
            "expression": expression.declared,
            "raw": dict(hashes),
            "rules": rules.to_mapping(),
            "own_types": own,
        },
    )


def _readable(path: Path, name: str, config: FilesConfig) -> bool:
    """Tell whether a folder can be read: expression as AnnData, or as a quantifier's output."""
    return name in config.expression and (
        path.suffix == ".zarr" or quantified(path, transcripts=config.transcripts is not None) is not None
    )


def _hash(path: Path) -> str:
    return files.tree_hash(path) if path.is_dir() else files.file_hash(path)


def _write(
    output: Path,
    *,
    samples: pd.DataFrame,
    survival: pd.DataFrame,
    mutations: pd.DataFrame,
    flow: Flow,
    layers: Mapping[str, ExpressionSource | None],
    var: pd.DataFrame,
    scale: str,
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """Write the cohort folder whole; expression, the long part, comes last among the things that can fail."""
    with files.atomic_folder(output) as aside:
        write_columns(samples, SAMPLE_COLUMNS, aside / SAMPLES)
        write_columns(survival, SURVIVAL_COLUMNS, aside / SURVIVAL)
        write_columns(mutations, MUTATION_COLUMNS, aside / MUTATIONS)
        write_expression(aside / EXPRESSION, sample_ids=list(samples["sample_id"]), var=var, layers=layers, scale=scale)
        store = open_expression(aside / EXPRESSION)
        notes = {name: dict(source.notes) for name, source in layers.items() if source is not None}
        provenance["scale"] = {"X": store.scale, "layers": store.layers, "genes": len(store.var), "notes": notes}
        if added := notes.get("X", {}).get("rows_of_repeated_genes_added"):
            flow.note(f"expression: {added} rows added to another row of the same gene")
        provenance["expression_sha256"] = files.tree_hash(aside / EXPRESSION)
        content = flow.to_mapping()
        files.write_json(aside / FLOW, content)
        files.write_json(aside / PROVENANCE, provenance)
    return content
