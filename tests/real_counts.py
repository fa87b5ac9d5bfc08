"""A real cohort in a lab's files: a featureCounts table and a clinical CSV, made of the real material.

The material has no read counts: its RSEM values (upper quartile of a sample 1000), rounded to whole numbers, stand for
them, so a sample's depth is not real; genes, differences between patients and follow-up are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd


def write_lab_files(real: Path, cancer_type: str, folder: Path) -> None:
    """Write counts.txt and clinical.csv of one cancer type's primary tumours."""
    source = real / "rtcga_rnaseqv2_small"
    samples = pd.read_csv(source / "samples.tsv.gz", sep="\t", dtype=str)
    samples = samples[(samples.cancer_type == cancer_type) & (samples.sample_type_code == "01")]
    genes = pd.read_csv(source / "genes.tsv.gz", sep="\t").dropna(subset=["ensembl", "length_bp"])
    genes = genes.drop_duplicates("ensembl")
    values = pd.read_parquet(source / "expression.parquet").set_index("gene").loc[genes.gene_id, samples.sample_id]
    table = pd.DataFrame({"Geneid": genes.ensembl.to_numpy(), "Chr": "chr1", "Start": "1", "End": "9", "Strand": "+"})
    table["Length"] = genes.length_bp.to_numpy(int)
    table["gene_name"] = genes.symbol.to_numpy()  # as --extraAttributes gene_name writes it
    counts = np.rint(values.to_numpy()).astype(int)
    bams = [f"bam/{sample}.Aligned.sortedByCoord.out.bam" for sample in samples.sample_id]
    table = pd.concat([table, pd.DataFrame(counts, columns=bams)], axis=1)
    folder.mkdir(parents=True, exist_ok=True)
    text = table.to_csv(sep="\t", index=False)
    (folder / "counts.txt").write_text(f'# Program:featureCounts v2.0.3; Command:"featureCounts" "-a" "x.gtf"\n{text}')
    columns = {"sample_id": "sample", "cancer_type": "type", "age": "age", "sex": "sex"}
    columns |= {"os_time_days": "os_days", "os_event": "died"}
    samples[list(columns)].rename(columns=columns).to_csv(folder / "clinical.csv", index=False)
