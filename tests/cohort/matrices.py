"""Small expression matrices for tests."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from bulkprobe.cohort.expression_files import LabExpression
from bulkprobe.cohort.store import ExpressionStore, open_expression, write_expression

SAMPLES = [f"TCGA-AA-{i:04d}-01" for i in range(7)]


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    return path


def matrix_text(values: np.ndarray, genes: list[str] | None = None, samples: list[str] | None = None) -> str:
    genes = [f"ENSG{i:011d}.{i % 9 + 1}" for i in range(len(values))] if genes is None else genes
    lines = ["\t".join(["sample", *(SAMPLES if samples is None else samples)])]
    lines += ["\t".join([gene, *(f"{x:.4f}" for x in row)]) for gene, row in zip(genes, values, strict=True)]
    return "\n".join(lines) + "\n"


def tpm_values(n_genes: int = 50, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tpm = np.exp2(rng.normal(2, 3, (n_genes, len(SAMPLES)))) * (rng.random((n_genes, len(SAMPLES))) > 0.3)
    return tpm / tpm.sum(axis=0) * 1e6


def stored(folder: Path, source: LabExpression) -> ExpressionStore:
    path = write_expression(
        folder / "store", sample_ids=source.sample_ids, var=source.var, layers={"X": source}, scale=source.scale
    )
    return open_expression(path)
