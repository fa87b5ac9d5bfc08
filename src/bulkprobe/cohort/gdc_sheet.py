"""Names of samples for files of the GDC, whose own names say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bulkprobe.cohort.genes import repeated
from bulkprobe.cohort.legible import read_text_table
from bulkprobe.errors import UserError, some

# The portal's sample sheet, and the list that `bulkprobe fetch` writes: column of the file, column of the sample.
SHEETS = {"gdc_sample_sheet*.tsv": ("File Name", "Sample ID"), "manifest.tsv": ("file_name", "aliquot_barcode")}


def barcodes(folder: Path, files: Sequence[Path]) -> list[str] | None:
    """Return each file's sample by the sheet in the folder (the portal's, or our own list); None without one.

    Raises UserError for several sheets, files that the sheet lacks, and samples of several files.
    """
    sheets = [(path, columns) for pattern, columns in SHEETS.items() for path in sorted(folder.glob(pattern))]
    if not sheets:
        return None
    if len(sheets) > 1:
        raise UserError(f"{folder.name} holds several sample sheets ({some(p.name for p, _ in sheets)}): keep one")
    path, (file_name, sample) = sheets[0]
    table = read_text_table(path, "\t", [file_name, sample])
    if not {file_name, sample} <= set(table.columns):
        raise UserError(f"{path.name} has no columns {file_name} and {sample}: fetch the sample sheet again")
    known = dict(zip(table[file_name], table[sample], strict=True))
    names = [known.get(file.name) or known.get(file.name.removesuffix(".gz")) for file in files]
    if lacking := [file.name for file, name in zip(files, names, strict=True) if not name]:
        raise UserError(f"{path.name} does not name the sample of {len(lacking)} files: {some(lacking)}; add them")
    found = [str(name) for name in names]
    if twice := repeated(found):
        raise UserError(f"{folder.name} has several files of a sample: {some(twice)}; keep one file of each")
    return found
