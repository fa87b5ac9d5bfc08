"""Every reader of foreign bytes, each with small sound files made here."""

from __future__ import annotations

import gzip
import json
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import openpyxl
import pandas as pd
import torch
import zarr
from anndata.io import write_elem
from safetensors.torch import save_file

from bulkprobe.cohort import read as cohort_read
from bulkprobe.cohort.expression import XenaMatrix
from bulkprobe.cohort.expression_files import read_lab_expression
from bulkprobe.cohort.flow import Flow
from bulkprobe.cohort.gdc_star import GdcStar
from bulkprobe.cohort.gene_keys import read_gene_table
from bulkprobe.cohort.genes import read_gtf
from bulkprobe.cohort.inputs import open_input
from bulkprobe.cohort.lab_mutations import lab_mutations
from bulkprobe.cohort.lab_survival import lab_survival
from bulkprobe.cohort.lab_tables import lab_samples, read_table
from bulkprobe.cohort.labels import read_maf
from bulkprobe.cohort.samples import read_quality
from bulkprobe.cohort.schema import SAMPLE_COLUMNS, CohortRules, FilesConfig
from bulkprobe.cohort.store import open_expression, write_expression
from bulkprobe.cohort.survival import CDR_COLUMNS, read_cdr
from bulkprobe.nn.files import PLAIN, TENSORS, read_pickle, read_safetensors, read_torch, tensors_of
from bulkprobe.nn.mindspore import list_mindspore, read_mindspore, write_mindspore
from bulkprobe.params import load_params
from bulkprobe.preprocess.hgnc import read_nomenclature
from bulkprobe.probes.save import Probe, load_probe, predict, save_probe
from bulkprobe.probes.transform import FittedTransform
from bulkprobe.sources.gdc_listing import STAR_COLUMNS, StarFile, manifest_text, read_manifest
from bulkprobe.sources.gmt import read_gmt
from bulkprobe.sources.lock import HashLock
from bulkprobe.stages.checkpoints import folder_hash, hashes_of, read_record, recorded
from bulkprobe.store import read_attributes, read_store, write_store

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
N, G = 6, 12
GENES = [f"ENSG{i:011d}" for i in range(1, G + 1)]
SYMBOLS = ["TP53", "KRAS", *(f"GENE{i}" for i in range(G - 2))]
SAMPLES = [f"TCGA-AA-000{i}-01A" for i in range(N)]
COUNTS = RNG.poisson(50, (N, G)) + 1
RULES = CohortRules(genes=("TP53", "KRAS"))
CONFIG = FilesConfig.from_mapping({"expression": "e.tsv", "expression_scale": "counts", "samples": "s.tsv"})


@dataclass(frozen=True)
class Reader:
    """write: puts the sound files of a reader into a folder; read: reads that folder, written or damaged."""

    name: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    reserves: bool = False  # takes address space, but no memory, on the word of a file


def _text(name: str, rows: list[list[object]], mark: str = "\t") -> Callable[[Path], None]:
    content = "".join(mark.join(map(str, row)) + "\n" for row in rows)

    def write(folder: Path) -> None:
        packed = name.endswith(".gz")
        (folder / name).write_bytes(gzip.compress(content.encode(), 1, mtime=0) if packed else content.encode())

    return write


# ---------------------------------------------------------------- tables of a lab

MATRIX: list[list[object]] = [
    ["gene", *SAMPLES],
    *([gene, *map(int, row)] for gene, row in zip(GENES, COUNTS.T, strict=True)),
]
TURNED: list[list[object]] = [
    ["sample", *GENES],
    *([sample, *map(int, row)] for sample, row in zip(SAMPLES, COUNTS, strict=True)),
]
CLINICAL: list[list[object]] = [
    ["sample_id", "cancer_type", "age", "sex", "stage", "purity", "n_mutations", "os_time_days", "os_event"],
    *([s, "KIRC", 50 + i, "female", "II", 0.5, 10 * i, 100 + i, i % 2] for i, s in enumerate(SAMPLES)),
]
MAF: list[list[object]] = [
    ["Hugo_Symbol", "Variant_Classification", "Tumor_Sample_Barcode", "HGVSp_Short", "FILTER"],
    *([SYMBOLS[i % 3], "Missense_Mutation", f"{s}-11D-A111-08", "p.G12D", "PASS"] for i, s in enumerate(SAMPLES)),
]
LONG: list[list[object]] = [
    ["sample_id", "gene", "mutated", "hotspot"],
    *([s, SYMBOLS[i % 2], i % 2, 0] for i, s in enumerate(SAMPLES)),
]
WIDE: list[list[object]] = [["gene", *SAMPLES], ["TP53", 1, 0, 0, 1, 0, 0], ["KRAS", 0, 0, 1, 1, 0, 0]]


def _expression(folder: Path) -> None:
    (path,) = [p for p in folder.iterdir() if not p.name.startswith(".")]
    with open_input(path, None, folder / ".spool") as given:
        given.read()


def _lab_expression(folder: Path) -> None:
    (path,) = [p for p in folder.iterdir() if not p.name.startswith(".")]
    source = read_lab_expression([path], "counts")
    (folder / ".spool").mkdir()
    with source.rows(np.arange(len(source.sample_ids)), folder / ".spool") as rows:
        rows.read(0, len(source.sample_ids))


def _samples() -> pd.DataFrame:
    table = pd.DataFrame(CLINICAL[1:], columns=CLINICAL[0], dtype=object).astype(str)
    return lab_samples(table, SAMPLES, CONFIG, RULES, Flow())


def _clinical(folder: Path) -> None:
    (path,) = folder.iterdir()
    table = read_table(path)
    samples = lab_samples(table, SAMPLES, CONFIG, RULES, Flow())
    lab_survival(table, samples, CONFIG, RULES, Flow())


def _mutations(folder: Path) -> None:
    lab_mutations(sorted(folder.iterdir()), _samples(), CONFIG, RULES, Flow())


def _frame(rows: list[list[object]]) -> pd.DataFrame:
    return pd.DataFrame(rows[1:], columns=[str(name) for name in rows[0]])


def _parquet(rows: list[list[object]], name: str) -> Callable[[Path], None]:
    return lambda folder: _frame(rows).to_parquet(folder / name, index=False)


# ---------------------------------------------------------------- official files


def _star(folder: Path) -> None:
    lines = ["# gene-model: GENCODE v36", "gene_id\tgene_name\tunstranded\ttpm_unstranded", "N_unmapped\t\t5\t"]
    rows = []
    for i, sample in enumerate(SAMPLES[:2]):
        body = [
            f"{g}.1\t{s}\t{c}\t{c / COUNTS[i].sum() * 1e6:.4f}"
            for g, s, c in zip(GENES, SYMBOLS, COUNTS[i], strict=True)
        ]
        identifier = f"0000000{i}-0000-0000-0000-000000000000"
        (folder / identifier).mkdir()
        (folder / identifier / f"f{i}.tsv").write_text("\n".join([*lines, *body]) + "\n")
        rows.append(StarFile(identifier, f"f{i}.tsv", "0" * 32, 1, sample, f"{sample}-11R-0001-07", "TCGA-KIRC", "P"))
    (folder / "manifest.tsv").write_text(manifest_text(rows))


def _read_star(folder: Path) -> None:
    star = GdcStar(folder)
    star.read(np.arange(len(star.sample_ids)))


def _read_xena(folder: Path) -> None:
    for _ in XenaMatrix(folder / "x.gz", "log2_counts_plus_1").gene_blocks():
        pass


XENA: list[list[object]] = [
    ["sample", *SAMPLES],
    *([f"{g}.1", *(f"{v:.4f}" for v in np.log2(row + 1))] for g, row in zip(GENES, COUNTS.T, strict=True)),
]


def _cdr(folder: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = "TCGA-CDR"
    sheet.append(list(CDR_COLUMNS))
    sheet.append(["TCGA-AA-0001", "KIRC", 50, "MALE", "Stage II", "", "", *[1, 100] * 4])
    book.save(folder / "cdr.xlsx")


def _gtf(folder: Path) -> None:
    with (folder / "a.gtf").open("w") as file:
        for i, gene in enumerate(GENES):
            for kind in ("gene", "exon"):
                about = f'gene_id "{gene}.1"; gene_name "{SYMBOLS[i]}";'
                file.write(f"chr1\tHAVANA\t{kind}\t{100 * i + 1}\t{100 * i + 90}\t.\t+\t.\t{about}\n")


QUALITY: list[list[object]] = [
    [
        *("patient_barcode", "aliquot_barcode", "cancer type", "platform", "patient_annotation", "sample_annotation"),
        *("aliquot_annotation", "AWG_excluded_because_of_pathology", "AWG_pathology_exclusion_reason"),
        *("Reviewed_by_EPC", "Do_not_use"),
    ],
    *([s[:12], f"{s}-11R-A111-07", "KIRC", "IlluminaHiSeq_RNASeqV2", "", "", "", 0, "", "", "False"] for s in SAMPLES),
]
MANIFEST: list[list[object]] = [
    list(STAR_COLUMNS),
    ["00000000-0000-0000-0000-000000000000", "a.tsv", "0" * 32, 12, *["x"] * (len(STAR_COLUMNS) - 4)],
]
GMT: list[list[object]] = [[f"SET{i}", "about", *SYMBOLS[i : i + 5]] for i in range(4)]
HGNC: list[list[object]] = [
    ["HGNC ID", "Approved symbol", "Status", "Previous symbols", "Alias symbols", "Ensembl gene ID"],
    *(
        [f"HGNC:{i}", s, "Approved", f"OLD{i}", f"A{i}, B{i}", g]
        for i, (s, g) in enumerate(zip(SYMBOLS, GENES, strict=True))
    ),
]
GENE_TABLE: list[list[object]] = [
    ["symbol", "ensembl_id", "length"], *([s, g, 900 + i] for i, (s, g) in enumerate(zip(SYMBOLS, GENES, strict=True)))
]  # fmt: skip


# ---------------------------------------------------------------- AnnData, stores


def _anndata(version: int | None, sparse: bool) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        import scipy.sparse

        values = COUNTS.astype(np.float32)
        obs = pd.DataFrame({"cancer_type": pd.Categorical(["KIRC"] * N), "age": np.arange(N) * 1.0}, index=SAMPLES)
        var = pd.DataFrame({"symbol": SYMBOLS, "length": np.arange(G) + 900.0}, index=GENES)
        data = anndata.AnnData(scipy.sparse.csr_matrix(values) if sparse else values, obs=obs, var=var)
        data.uns["scale"] = "counts"
        if version is None:
            data.write_h5ad(folder / "a.h5ad")
        else:
            with anndata.settings.override(auto_shard_zarr_v3=False):
                write_elem(zarr.open_group(str(folder / "a.zarr"), mode="w", zarr_format=version), "/", data)

    return write


class _Counts:
    sample_ids = SAMPLES
    gene_ids = GENES
    notes: dict[str, Any] = {}  # noqa: RUF012 - the protocol has it so

    def rows(self, keep: Any, folder: Path) -> Any:
        from contextlib import nullcontext

        return nullcontext(self)

    def read(self, start: int, stop: int) -> Any:
        return COUNTS[start:stop].astype(np.float32)


def _expression_store(folder: Path) -> None:
    var = pd.DataFrame({"ensembl_id": GENES, "symbol": SYMBOLS, "length": np.arange(G) + 900.0})
    write_expression(folder / "expression.zarr", sample_ids=SAMPLES, var=var, layers={"X": _Counts()}, scale="counts")


def _cohort(folder: Path) -> None:
    _expression_store(folder)
    samples = pd.DataFrame(dict.fromkeys(SAMPLE_COLUMNS), index=range(N), dtype=object)
    samples = samples.assign(sample_id=SAMPLES, patient_id=[s[:12] for s in SAMPLES], cancer_type="KIRC")
    samples = samples.assign(sample_type="01", for_probing=True)
    cohort_read.write_columns(samples, SAMPLE_COLUMNS, folder / "samples.parquet")
    survival = pd.DataFrame({"patient_id": samples["patient_id"], "endpoint": "OS", "time_days": 9.0, "event": True})
    cohort_read.write_columns(survival, cohort_read.SURVIVAL_COLUMNS, folder / "survival.parquet")
    mutations = pd.DataFrame({"patient_id": samples["patient_id"], "gene": "TP53", "mutated": True, "hotspot": None})
    cohort_read.write_columns(mutations, cohort_read.MUTATION_COLUMNS, folder / "mutations.parquet")
    for name in ("flow.json", "provenance.json"):
        (folder / name).write_text('{"rules": [], "notes": []}')


def _read_cohort(folder: Path) -> None:
    with open_input(folder) as given:
        given.read()


def _store(folder: Path) -> None:
    vectors = RNG.normal(size=(N, 4)).astype(np.float32)
    write_store(
        folder / "s.zarr",
        sample_ids=SAMPLES,
        width=4,
        attributes={"a": 1},
        shards=[(0, vectors[:4]), (4, vectors[4:])],
        shard_size=4,
    )


def _read_store(folder: Path) -> None:
    read_attributes(folder / "s.zarr")
    read_store(folder / "s.zarr")


def _probe(folder: Path) -> None:
    fitted = FittedTransform(4, np.arange(4), np.zeros(4), np.ones(4), None, 1.0)
    save_probe(folder / "p.npz", [Probe("mutation", "TP53", 1.0, 9, fitted, np.ones(4), 0.5, {"model": "pca"})])


def _read_probe(folder: Path) -> None:
    for probe in load_probe(folder / "p.npz"):
        predict(probe, np.ones((2, 4)))


# ---------------------------------------------------------------- checkpoints


def _tensors() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.ones(3, dtype=torch.float16)}


def _torch(zipped: bool) -> Callable[[Path], None]:
    return lambda folder: torch.save(_tensors(), folder / "m.pt", _use_new_zipfile_serialization=zipped)


def _read_mindspore(folder: Path) -> None:
    found = list_mindspore(folder / "m.ckpt")
    read_mindspore(folder / "m.ckpt", found)


def _vocabulary_pickle(folder: Path) -> None:
    content = {gene: np.float64(i) if i % 2 else float(i) for i, gene in enumerate(GENES)}
    (folder / "v.pkl").write_bytes(pickle.dumps(content, protocol=4))


def _settings_pickle(folder: Path) -> None:
    (folder / "v.pkl").write_bytes(pickle.dumps({"depth": 2, "graph": torch.ones(2, 3)}, protocol=4))


def _record(folder: Path) -> None:
    (folder / "r").mkdir()
    (folder / "r" / "weights").write_bytes(b"w")
    record = {
        "release": "r",
        "sha256": folder_hash(hashes_of(folder / "r")),
        "untrained": False,
        "twin": False,
        "verified": True,
        "model": "scgpt",
    }
    (folder / "release.json").write_text(json.dumps({**record, "files": {}}))


def _params(folder: Path) -> None:
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())


READERS = (
    Reader("matrix.tsv", _text("a.tsv", MATRIX), _expression),
    Reader("matrix.csv", _text("a.csv", TURNED, ","), _expression),
    Reader("matrix.tsv.gz", _text("a.tsv.gz", MATRIX), _lab_expression),
    Reader("matrix.parquet", _parquet(MATRIX, "a.parquet"), _expression),
    Reader("clinical.tsv", _text("s.tsv", CLINICAL), _clinical),
    Reader("clinical.csv.gz", _text("s.csv.gz", CLINICAL, ","), _clinical),
    Reader("clinical.parquet", _parquet(CLINICAL, "s.parquet"), _clinical),
    Reader("mutations.maf", _text("m.maf", MAF), _mutations),
    Reader("mutations-long.tsv", _text("m.tsv", LONG), _mutations),
    Reader("mutations-wide.csv", _text("m.csv", WIDE, ","), _mutations),
    Reader("mutations.parquet", _parquet(LONG, "m.parquet"), _mutations),
    Reader("mc3.maf.gz", _text("m.maf.gz", MAF), lambda f: read_maf(f / "m.maf.gz", RULES)),
    Reader("gene-table.tsv", _text("g.tsv", GENE_TABLE), lambda f: read_gene_table(f / "g.tsv")),
    Reader("gdc-star", _star, _read_star),
    Reader("gdc-manifest", _text("manifest.tsv", MANIFEST), lambda f: read_manifest(f / "manifest.tsv")),
    Reader("xena.gz", _text("x.gz", XENA), _read_xena),
    Reader("cdr.xlsx", _cdr, lambda f: read_cdr(f / "cdr.xlsx")),
    Reader("quality.tsv", _text("q.tsv", QUALITY), lambda f: read_quality(f / "q.tsv")),
    Reader("annotation.gtf", _gtf, lambda f: read_gtf(f / "a.gtf")),
    Reader("sets.gmt", _text("s.gmt", GMT), lambda f: read_gmt(f / "s.gmt")),
    Reader("hgnc.txt", _text("h.txt", HGNC), lambda f: read_nomenclature(f / "h.txt")),
    Reader("anndata.h5ad", _anndata(None, False), _expression),
    Reader("anndata-sparse.h5ad", _anndata(None, True), _lab_expression),
    Reader("anndata.zarr-2", _anndata(2, False), _expression),
    Reader("anndata-sparse.zarr-3", _anndata(3, True), _expression),
    Reader("expression.zarr", _expression_store, lambda f: open_expression(f).read()),
    Reader("cohort-folder", _cohort, _read_cohort),
    Reader("embedding-store", _store, _read_store),
    Reader("probe.npz", _probe, _read_probe),
    Reader("torch-zip", _torch(True), lambda f: tensors_of(read_torch(f / "m.pt"), f / "m.pt")),
    # PyTorch's old format: it reserves what a header says, and fills as much of it as the file has.
    Reader("torch-legacy", _torch(False), lambda f: tensors_of(read_torch(f / "m.pt"), f / "m.pt"), reserves=True),
    Reader(
        "safetensors",
        lambda f: save_file(_tensors(), f / "m.safetensors"),
        lambda f: read_safetensors(f / "m.safetensors"),
    ),
    Reader("mindspore", lambda f: write_mindspore(f / "m.ckpt", _tensors().items()), _read_mindspore),
    Reader("vocabulary.pkl", _vocabulary_pickle, lambda f: read_pickle(f / "v.pkl")),
    Reader("settings.pkl", _settings_pickle, lambda f: read_pickle(f / "v.pkl", PLAIN | TENSORS)),
    Reader("release.json", _record, lambda f: (read_record(f), recorded(f))),
    Reader("params.yaml", _params, lambda f: load_params(f / "params.yaml")),
    Reader(
        "sources.lock.json",
        lambda f: (f / "l.json").write_text('{"https://a": "00"}'),
        lambda f: HashLock(f / "l.json").get("https://a"),
    ),
)


@cache
def sound(reader: Reader) -> dict[str, bytes]:
    """The sound files of a reader, by relative path."""
    with tempfile.TemporaryDirectory() as scratch:
        reader.write(Path(scratch))
        return {
            p.relative_to(scratch).as_posix(): p.read_bytes() for p in sorted(Path(scratch).rglob("*")) if p.is_file()
        }
