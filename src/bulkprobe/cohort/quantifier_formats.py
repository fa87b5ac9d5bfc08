"""What quantifiers write, told apart by the first lines of their files: columns, rows, names of samples."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bulkprobe.cohort.genes import BROKEN_GZIP, open_maybe_gzip, repeated, truncated
from bulkprobe.cohort.schema import QUANTIFIER_ENDINGS
from bulkprobe.errors import UserError, some

HEAD_LINES, HEAD_BYTES = 50, 1 << 20  # of a file, within which its header must stand
STRANDS = ("unstranded", "forward", "reverse")
SUMMARY = "N_"  # STAR's rows of reads that no gene got


@dataclass(frozen=True)
class Format:
    """One kind of file.

    header: the first names of its columns (STAR: it has no header). usual: the end of its files' names, in front of
    which the sample's may stand. columns: scale → column. names: the rows' column. gene: column with the gene of a
    transcript. symbol: column with the gene's symbol. transcripts: rows are transcripts. estimated: counts are
    estimates with TPM beside them, so that no look at the values can tell more than the format does.
    """

    name: str
    header: tuple[str, ...]
    usual: re.Pattern[str]
    columns: Mapping[str, str] = field(default_factory=dict)
    names: str = "gene_id"
    gene: str | None = None
    symbol: str | None = None
    transcripts: bool = False
    estimated: bool = True


def _usual(end: str) -> re.Pattern[str]:
    return re.compile(rf"(?:(?P<sample>.*?)[._-]?)?{end}(\.gz)?")


_SALMON = ("Name", "Length", "EffectiveLength", "TPM", "NumReads")
_RSEM = ("length", "effective_length", "expected_count", "TPM", "FPKM")
_RSEM_COLUMNS = {"counts": "expected_count", "tpm": "TPM", "fpkm": "FPKM"}
SALMON_GENES = Format(
    "Salmon (genes)", _SALMON, _usual(r"quant\.genes\.sf"), {"counts": "NumReads", "tpm": "TPM"}, "Name"
)
SALMON = Format("Salmon", _SALMON, _usual(r"quant\.sf"), {"counts": "NumReads", "tpm": "TPM"}, "Name", transcripts=True)
KALLISTO = Format(
    "kallisto",
    ("target_id", "length", "eff_length", "est_counts", "tpm"),
    _usual(r"abundance\.tsv"),
    {"counts": "est_counts", "tpm": "tpm"},
    "target_id",
    transcripts=True,
)
RSEM = Format("RSEM (genes)", ("gene_id", "transcript_id(s)", *_RSEM), _usual(r"genes\.results"), _RSEM_COLUMNS)
RSEM_ISOFORMS = Format(
    "RSEM (isoforms)",
    ("transcript_id", "gene_id", *_RSEM),
    _usual(r"isoforms\.results"),
    _RSEM_COLUMNS,
    "transcript_id",
    "gene_id",
    transcripts=True,
)
GDC = Format(
    "GDC STAR counts",
    ("gene_id", "gene_name", "gene_type", "unstranded", "stranded_first", "stranded_second"),
    _usual(r"(rna_seq\.)?augmented_star_gene_counts\.tsv"),
    {"counts": "unstranded", "tpm": "tpm_unstranded", "fpkm": "fpkm_unstranded"},
    symbol="gene_name",
)
STAR = Format("STAR ReadsPerGene", (), _usual(r"ReadsPerGene\.out\.tab"), {"counts": "unstranded"}, estimated=False)
FEATURE_COUNTS = Format(
    "featureCounts", ("Geneid", "Chr", "Start", "End", "Strand", "Length"), re.compile(r"(?!)"), names="Geneid"
)
# One quantification at two levels: where every sample has the first, it is taken.
SAME = {SALMON_GENES.name: SALMON, RSEM.name: RSEM_ISOFORMS}
FORMATS = (SALMON_GENES, SALMON, KALLISTO, RSEM, RSEM_ISOFORMS, GDC, STAR, FEATURE_COUNTS)
KINDS = "Salmon, kallisto, RSEM, featureCounts, STAR ReadsPerGene or GDC STAR counts"


def identify(path: Path) -> Format | None:
    """Tell which quantifier wrote a file, by its first lines; None where it is something else.

    Raises UserError where the name promises a quantifier's file and the content is another.
    """
    promised = next((f for f in FORMATS if f.usual.fullmatch(path.name)), None)
    try:
        lines = _head(path)
    except UserError:
        if promised is None:
            return None
        raise
    found = _by_content(path, lines)
    if found is None and promised is not None:
        expected = f"columns {', '.join(promised.header[:6])}" if promised.header else "four columns, N_unmapped first"
        raise UserError(
            f"{_place(path)} is named as {promised.name} names its files, but begins with "
            f"{' '.join(lines[-1].split())[:60] if lines else ''!r}: expected {expected}, write or fetch it again"
        )
    return found


def _by_content(path: Path, lines: Sequence[str]) -> Format | None:
    if not lines:
        return None
    fields = tuple(lines[-1].split("\t"))
    if len(fields) == 4 and fields[0] == f"{SUMMARY}unmapped":
        return STAR
    found = [f for f in FORMATS if f.header and fields[: len(f.header)] == f.header]
    if len(found) > 1:  # Salmon's two files have one header
        return next((f for f in found if f.usual.fullmatch(path.name)), SALMON)
    return found[0] if found else None


def _head(path: Path) -> list[str]:
    """Return the comment lines and the first line below them."""
    lines: list[str] = []
    with open_maybe_gzip(path) as handle:
        try:
            for _ in range(HEAD_LINES):
                line = handle.readline(HEAD_BYTES)
                if not line:
                    break
                lines.append(line.decode("utf-8", "replace").removeprefix("\ufeff").rstrip("\r\n"))
                if not lines[-1].startswith("#"):
                    break
        except BROKEN_GZIP as error:
            raise truncated(path, error) from error
    return lines


def comment_lines(path: Path) -> int:
    """Return how many lines stand above the header."""
    return max(0, len(_head(path)) - 1)


def header_of(path: Path) -> list[str]:
    """Return the names of the columns."""
    return _head(path)[-1].split("\t")


def find_files(folder: Path, *, transcripts: bool) -> tuple[Format, list[Path]] | None:
    """Return the quantifier's files of a folder (up to three levels down), sorted; None where there are none.

    transcripts: a transcript table is given, so files with transcripts are preferred to those with genes.
    Raises UserError for files of several quantifiers, and for samples that lack the file that others have.
    """
    found: dict[str, list[Path]] = {}
    formats: dict[str, Format] = {}
    for path in sorted(path for level in ("*", "*/*", "*/*/*") for path in folder.glob(level)):
        below = path.relative_to(folder).parts
        ending = Path(path.name.removesuffix(".gz")).suffix
        if ending not in QUANTIFIER_ENDINGS or any(part.startswith(".") for part in below) or not path.is_file():
            continue
        kind = identify(path)
        if kind is not None:
            formats[kind.name] = kind
            found.setdefault(kind.name, []).append(path)
    for of_genes, whole in SAME.items():
        if of_genes in found and whole.name in found:
            enough = len(found[of_genes]) >= len(found[whole.name])
            of_transcripts = (transcripts and whole.gene is None) or not enough
            found.pop(of_genes if of_transcripts else whole.name)
    if len(found) > 1:
        said = " and ".join(f"{name} ({some(_place(path) for path in paths[:1])})" for name, paths in found.items())
        raise UserError(
            f"{folder.name} holds files of {len(found)} kinds, {said}: expected one; give each a folder of its own"
        )
    for name, paths in found.items():
        return formats[name], paths
    return None


def sample_names(kind: Format, paths: Sequence[Path], folder: Path) -> list[str]:
    """Name each file's sample: what stands before the usual end of its name, else its folder.

    Where the files' own names repeat, the folders' are taken. Raises UserError where those repeat too.
    """
    own = []
    for path in paths:
        usual = kind.usual.fullmatch(path.name)
        stem = path.name.removesuffix(".gz").removesuffix(Path(path.name.removesuffix(".gz")).suffix)
        own.append((usual.group("sample") or path.absolute().parent.name) if usual else stem)
    names = [path.parent.name for path in paths] if repeated(own) else own
    if twice := repeated(names):
        raise UserError(
            f"{folder.name} has repeated samples: {some(twice)} (named by file, else by folder); keep one file of each"
        )
    return names


def _place(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
