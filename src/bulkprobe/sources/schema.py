"""What a raw file is, and the official names of the raw files (`data/raw/`)."""

from __future__ import annotations

from dataclasses import dataclass

# Written by every source, read by cohort: which source it was, and the hash of each file.
SOURCE_JSON = "source.json"

XENA_TPM = "tcga_RSEM_gene_tpm.gz"  # log2(TPM + 0.001), genes × samples
XENA_COUNTS = "tcga_gene_expected_count.gz"  # log2(RSEM expected count + 1), genes × samples
GENCODE_V23 = "gencode.v23.annotation.gtf.gz"  # the annotation of both Xena Toil matrices
GENCODE_V36 = "gencode.v36.annotation.gtf.gz"  # the annotation of the GDC's STAR counts
MC3_MAF = "mc3.v0.2.8.PUBLIC.maf.gz"  # somatic calls, GRCh37
CDR_XLSX = "TCGA-CDR-SupplementalTableS1.xlsx"  # curated survival, sheet `TCGA-CDR`
SAMPLE_QUALITY = "merged_sample_quality_annotations.tsv"  # aliquots not to be used
ABSOLUTE_PURITY = "TCGA_mastercalls.abs_tables_JSedit.fixed.txt"  # purity and ploidy

# The GDC's STAR counts: one small file per aliquot, at `gdc_star/<file_id>/<file_name>`.
STAR_FOLDER = "gdc_star"
STAR_MANIFEST = "gdc_star/manifest.tsv"
STAR_COLUMNS = (
    "file_id",
    "file_name",
    "md5",
    "size",  # bytes
    "sample_barcode",  # 16 characters, TCGA-XX-XXXX-01A
    "aliquot_barcode",  # 28 characters
    "project",  # TCGA-BRCA
    "sample_type",  # the GDC's words: "Primary Tumor", "Solid Tissue Normal", …
)

# A lab's own tables, copied, and the section of params.yaml that describes them.
LAB_FOLDER = "files"
LAB_CONFIG = "files.json"


@dataclass(frozen=True)
class SourceFile:
    """One file that somebody publishes: its addresses and what its bytes must be.

    `name` is the path below the folder it is kept in; `urls` has the official address first, then
    mirrors. Hashes are hexadecimal; those that are unknown are None and are recorded at the first
    download. With `strict_hash=False` a differing hash is a warning: the publisher may have re-packed it.
    """

    name: str
    urls: tuple[str, ...]
    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None
    terms: str = ""
    note: str = ""
    strict_hash: bool = True

    @property
    def lock_key(self) -> str:
        """The name under which a recorded hash is kept: the official address, which is unique."""
        return self.urls[0] if self.urls else self.name

    @property
    def pinned(self) -> bool:
        """Whether the registry itself says what the bytes must be."""
        return self.strict_hash and (self.sha256 is not None or self.md5 is not None)
