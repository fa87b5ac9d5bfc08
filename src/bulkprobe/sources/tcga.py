"""The official TCGA files: addresses, sizes and hashes, and bringing them into `data/raw/`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, get_args

from bulkprobe.errors import UserError
from bulkprobe.files import file_hash, read_json, write_json
from bulkprobe.sources import schema
from bulkprobe.sources.client import HttpOptions
from bulkprobe.sources.download import download_all
from bulkprobe.sources.gdc import GDC_API, fetch_star
from bulkprobe.sources.lock import HashLock
from bulkprobe.sources.schema import SourceFile
from bulkprobe.sources.transfer import discard

Expression = Literal["xena_toil", "gdc_star"]

TOIL_HUB = "https://toil-xena-hub.s3.us-east-1.amazonaws.com/download"
TOIL_ALIAS = "https://toil.xenahubs.net/download"
PANCAN_HUB = "https://tcga-pancan-atlas-hub.s3.us-east-1.amazonaws.com/download"
PANCAN_ALIAS = "https://pancanatlas.xenahubs.net/download"
GDC_TERMS = "GDC open-access data; cite the PanCanAtlas publication of the file"
XENA_TERMS = "UCSC Xena public data; cite Goldman 2020 doi:10.1038/s41587-020-0546-8"
GENCODE_TERMS = "GENCODE, open without restriction; cite Frankish 2021 doi:10.1093/nar/gkaa1087"
RE_PACKED = "the stated hash is of the copy of April 2018, Xena may have packed it anew: check its shape"

MC3 = SourceFile(
    name=schema.MC3_MAF,
    urls=(f"{GDC_API}/data/1c8cfe5f-e52d-41ba-94da-f15ea1337efc",),
    bytes=753_339_089,
    md5="639ad8f8386e98dacc22e439188aa8fa",
    terms=GDC_TERMS,
    note="Ellrott 2018 doi:10.1016/j.cels.2018.03.002",
)
CDR = SourceFile(
    name=schema.CDR_XLSX,
    urls=(f"{GDC_API}/data/1b5f413e-a8d1-4d10-92eb-7c4ae739ed81",),
    bytes=2_945_129,
    md5="a4591b2dcee39591f59e5e25a6ce75fa",
    terms=GDC_TERMS,
    note="Liu 2018 doi:10.1016/j.cell.2018.02.052",
)
QUALITY = SourceFile(
    name=schema.SAMPLE_QUALITY,
    urls=(f"{GDC_API}/data/1a7d7be8-675d-4e60-a105-19d4121bdebf",),
    bytes=8_463_670,
    md5="05ddd2270fb1fb24fbdc2fe9bf7384e5",
    terms=GDC_TERMS,
)
PURITY = SourceFile(
    name=schema.ABSOLUTE_PURITY,
    urls=(f"{GDC_API}/data/4f277128-f793-4354-a13d-30cc7fe9f6b5",),
    bytes=901_812,
    md5="8ea2ca92c8ae58350538999dfa1174da",
    terms=GDC_TERMS,
)
TPM = SourceFile(
    name=schema.XENA_TPM,
    urls=(f"{TOIL_HUB}/tcga_RSEM_gene_tpm.gz", f"{TOIL_ALIAS}/tcga_RSEM_gene_tpm.gz"),
    terms=XENA_TERMS,
    note="Vivian 2017 doi:10.1038/nbt.3772; about 740 MB",
)
COUNTS = SourceFile(
    name=schema.XENA_COUNTS,
    urls=(f"{TOIL_HUB}/tcga_gene_expected_count.gz", f"{TOIL_ALIAS}/tcga_gene_expected_count.gz"),
    terms=XENA_TERMS,
    note="Vivian 2017 doi:10.1038/nbt.3772",
)
ANNOTATION_V23 = SourceFile(
    name=schema.GENCODE_V23,
    urls=("https://ftp.ebi.ac.uk/pub/databases/gencode/Gencode_human/release_23/gencode.v23.annotation.gtf.gz",),
    terms=GENCODE_TERMS,
)
ANNOTATION_V36 = SourceFile(
    name=schema.GENCODE_V36,
    urls=(f"{GDC_API}/data/be002a2c-3b27-43f3-9e0f-fd47db92a6b5",),
    md5="c03931958d4572148650d62eb6dec41a",
    terms=GENCODE_TERMS,
)

# Not read by the pipeline: the same data as others packed them, for a lab that compares with those.
ALTERNATIVES = (
    SourceFile(
        name="EB++AdjustPANCAN_IlluminaHiSeq_RNASeqV2.geneExp.xena.gz",
        urls=tuple(
            f"{hub}/EB%2B%2BAdjustPANCAN_IlluminaHiSeq_RNASeqV2.geneExp.xena.gz" for hub in (PANCAN_HUB, PANCAN_ALIAS)
        ),
        bytes=331_000_731,
        sha256="90f86d36e67aeddfe037487469cf3ab3f847f3f072b7fb736ab0760d7a376e00",
        terms=XENA_TERMS,
        note=RE_PACKED,
        strict_hash=False,
    ),
    SourceFile(
        name="mc3.v0.2.8.PUBLIC.xena.gz",
        urls=tuple(f"{hub}/mc3.v0.2.8.PUBLIC.xena.gz" for hub in (PANCAN_HUB, PANCAN_ALIAS)),
        bytes=64_540_936,
        sha256="50f6301defc8468fb4bdb7407236d75545edaade3bb73778da3c4bb954485cc6",
        terms=XENA_TERMS,
        note=RE_PACKED,
        strict_hash=False,
    ),
    SourceFile(
        name="Survival_SupplementalTable_S1_20171025_xena_sp",
        urls=tuple(f"{hub}/Survival_SupplementalTable_S1_20171025_xena_sp" for hub in (PANCAN_HUB, PANCAN_ALIAS)),
        bytes=334_033,
        sha256="2362399ae02d2cee1a6810ff9d738b53976b24fb08246960808765d5118c75ed",
        terms=XENA_TERMS,
        note=RE_PACKED,
        strict_hash=False,
    ),
)

LABEL_FILES = (MC3, CDR, QUALITY, PURITY)
EXPRESSION_FILES: dict[str, tuple[SourceFile, ...]] = {
    "xena_toil": (TPM, COUNTS, ANNOTATION_V23),
    "gdc_star": (ANNOTATION_V36,),  # and the thousands of files in the GDC's own listing
}


def files_for(expression: Expression) -> tuple[SourceFile, ...]:
    """Return the files that a TCGA cohort with this expression source is made of."""
    if expression not in EXPRESSION_FILES:
        raise UserError(
            f"The expression source {expression!r} is not known; expected one of "
            f"{', '.join(get_args(Expression))}: set cohort.expression in params.yaml."
        )
    return EXPRESSION_FILES[expression] + LABEL_FILES


def fetch_tcga(
    folder: Path,
    expression: Expression,
    *,
    lock: HashLock | None,
    workers: int = 4,
    projects: Sequence[str] | None = None,
    refresh: bool = False,
    batch: int = 50,
    progress: bool = True,
    **http: Unpack[HttpOptions],
) -> dict[str, Any]:
    """Bring the official TCGA files into `folder`, write `source.json` there and return its content.

    `projects` (cancer types or project ids; None: all 33), `refresh` (ask for the listing anew) and
    `batch` (files a request) concern the GDC's STAR counts only; `http` are the options of `Client`.
    Finished files are kept, unfinished ones continued, those of another source removed. Raises
    UserError when a file cannot be had or is not what it must be.
    """
    folder = Path(folder)
    needed = files_for(expression)
    folder.mkdir(parents=True, exist_ok=True)
    if expression != "gdc_star":
        shutil.rmtree(folder / schema.STAR_FOLDER, ignore_errors=True)
    _remove_other_source(folder, {file.name for file in needed})
    records = download_all(needed, folder, workers=workers, lock=lock, progress=progress, **http)
    # The official address even where a mirror or an earlier run gave the bytes: equal bytes, equal record.
    files: dict[str, dict[str, Any]] = {
        file.name: {
            "sha256": records[file.name].sha256,
            "bytes": records[file.name].bytes,
            "url": file.urls[0],
        }
        for file in needed
    }
    if expression == "gdc_star":
        fetch_star(
            folder,
            projects,
            lock=lock,
            workers=workers,
            refresh=refresh,
            batch=batch,
            progress=progress,
            **http,
        )
        manifest = folder / schema.STAR_MANIFEST
        # The manifest holds the md5 of every counts file, so its hash stands for all of them.
        files[schema.STAR_MANIFEST] = {
            "sha256": file_hash(manifest),
            "bytes": manifest.stat().st_size,
            "url": f"{GDC_API}/files",
        }
    source = {"source": "tcga", "expression": expression, "files": files}
    write_json(folder / schema.SOURCE_JSON, source)
    return source


def _remove_other_source(folder: Path, needed: set[str]) -> None:
    """Remove what an earlier source left: the files it lists, and official ones that are not needed now.

    Simulated files bear official names, and for some of these no hash is published: what is still the
    file that another source listed must go, or it would be taken for the official one.
    """
    path = folder / schema.SOURCE_JSON
    previous: dict[str, Any] = read_json(path) if path.exists() else {"source": "tcga", "files": {}}
    listed: dict[str, dict[str, Any]] = previous["files"]
    official = {file.name for file in sum(EXPRESSION_FILES.values(), LABEL_FILES)}
    for name in sorted(official - needed):
        (folder / name).unlink(missing_ok=True)
        discard(folder / name)
    if previous["source"] == "tcga":
        return
    for name, entry in sorted(listed.items()):
        stale = folder / name
        if ".." not in stale.parts and stale.is_file() and file_hash(stale) == entry["sha256"]:
            stale.unlink()
    if previous["source"] == "files":
        shutil.rmtree(folder / schema.LAB_FOLDER, ignore_errors=True)
        (folder / schema.LAB_CONFIG).unlink(missing_ok=True)
    path.unlink()
