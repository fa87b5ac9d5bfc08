"""Names, columns and rules of a cohort. No other module of the room is imported here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal

from bulkprobe.errors import UserError, some

# ---------------------------------------------------------------- the cohort folder

EXPRESSION = "expression.zarr"
SAMPLES = "samples.parquet"
SURVIVAL = "survival.parquet"
MUTATIONS = "mutations.parquet"
FLOW = "flow.json"
PROVENANCE = "provenance.json"

Kind = Literal["text", "float", "bool"]
SAMPLE_COLUMNS: Mapping[str, Kind] = MappingProxyType(
    {
        "sample_id": "text",
        "patient_id": "text",
        "cancer_type": "text",
        "sample_type": "text",
        "aliquot": "text",
        "site": "text",
        "age": "float",  # years
        "sex": "text",
        "stage": "text",
        "purity": "float",  # fraction of tumour cells
        "log10_mutation_burden": "float",  # log10(1 + non-silent calls)
        "hypermutated": "bool",
        "msi": "text",
        "subtype": "text",
        "for_probing": "bool",
        "flagged": "text",
    }
)
SURVIVAL_COLUMNS: Mapping[str, Kind] = MappingProxyType(
    {"patient_id": "text", "endpoint": "text", "time_days": "float", "event": "bool"}
)
MUTATION_COLUMNS: Mapping[str, Kind] = MappingProxyType(
    {"patient_id": "text", "gene": "text", "mutated": "bool", "hotspot": "bool"}
)
ENDPOINTS = ("OS", "DSS", "DFI", "PFI")
STAGES = ("I", "II", "III", "IV")
SEXES = ("female", "male")

# ---------------------------------------------------------------- cancer types

TCGA_STUDIES: Mapping[str, str] = MappingProxyType(
    {
        "ACC": "Adrenocortical carcinoma",
        "BLCA": "Bladder urothelial carcinoma",
        "BRCA": "Breast invasive carcinoma",
        "CESC": "Cervical squamous cell carcinoma and endocervical adenocarcinoma",
        "CHOL": "Cholangiocarcinoma",
        "COAD": "Colon adenocarcinoma",
        "DLBC": "Diffuse large B-cell lymphoma",
        "ESCA": "Esophageal carcinoma",
        "GBM": "Glioblastoma multiforme",
        "HNSC": "Head and neck squamous cell carcinoma",
        "KICH": "Kidney chromophobe",
        "KIRC": "Kidney renal clear cell carcinoma",
        "KIRP": "Kidney renal papillary cell carcinoma",
        "LAML": "Acute myeloid leukemia",
        "LGG": "Brain lower grade glioma",
        "LIHC": "Liver hepatocellular carcinoma",
        "LUAD": "Lung adenocarcinoma",
        "LUSC": "Lung squamous cell carcinoma",
        "MESO": "Mesothelioma",
        "OV": "Ovarian serous cystadenocarcinoma",
        "PAAD": "Pancreatic adenocarcinoma",
        "PCPG": "Pheochromocytoma and paraganglioma",
        "PRAD": "Prostate adenocarcinoma",
        "READ": "Rectum adenocarcinoma",
        "SARC": "Sarcoma",
        "SKCM": "Skin cutaneous melanoma",
        "STAD": "Stomach adenocarcinoma",
        "TGCT": "Testicular germ cell tumors",
        "THCA": "Thyroid carcinoma",
        "THYM": "Thymoma",
        "UCEC": "Uterine corpus endometrial carcinoma",
        "UCS": "Uterine carcinosarcoma",
        "UVM": "Uveal melanoma",
    }
)
GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"COADREAD": ("COAD", "READ"), "GBMLGG": ("GBM", "LGG"), "RCC": ("KIRC", "KIRP", "KICH")}
)

# Liu 2018, Cell 173:400, doi:10.1016/j.cell.2018.02.052, table 3, as public digests restate it. A pair
# that is not covered here has no statement, which is neither a recommendation nor a warning.
_ALL_ENDPOINTS = "BLCA CESC COAD ESCA HNSC KIRP LUAD LUSC OV PAAD SARC STAD UCEC".split()
_FEW_EVENTS = "KICH PRAD READ THCA".split()
_LEFT_OUT = "DLBC PCPG TGCT THYM".split()
ADVICE: Mapping[tuple[str, str], str] = MappingProxyType(
    {(kind, endpoint): "usable without reservation (Liu 2018)" for kind in _ALL_ENDPOINTS for endpoint in ENDPOINTS}
    | {(kind, "OS"): "not recommended: too few events (Liu 2018)" for kind in _FEW_EVENTS}
    | {(kind, "OS"): "not recommended: analyses after Liu 2018 leave this type out" for kind in _LEFT_OUT}
    | {(kind, "OS"): "with caution: follow-up is short (Liu 2018)" for kind in ("BRCA", "LGG")}
    | {("PCPG", endpoint): "not recommended: no endpoint of this type (Liu 2018)" for endpoint in ENDPOINTS}
    | {("KICH", "PFI"): "with caution (Liu 2018)"}
    | {("LAML", endpoint): "not defined for leukaemia in TCGA-CDR (Liu 2018)" for endpoint in ("PFI", "DSS")}
    | {
        ("SKCM", endpoint): "left truncated: time runs from first diagnosis, most samples are later "
        "metastases (Cancers 2019;11:280)"
        for endpoint in ENDPOINTS
    }
    | {("GBMLGG", endpoint): "two diseases merged: concordance is mostly grade" for endpoint in ENDPOINTS}
)


def endpoint_advice(cancer_type: str, endpoint: str) -> str | None:
    """Return what is published about using `endpoint` in `cancer_type` (code or group), or None if unknown.

    A group without advice of its own lists that of its members.
    """
    own = ADVICE.get((cancer_type, endpoint))
    if own is not None or cancer_type not in GROUPS:
        return own
    members = [(kind, ADVICE.get((kind, endpoint))) for kind in GROUPS[cancer_type]]
    stated = [f"{kind}: {text}" for kind, text in members if text is not None]
    return "; ".join(stated) or None


# ---------------------------------------------------------------- mutations

NONSILENT = (
    "Missense_Mutation",
    "Nonsense_Mutation",
    "Nonstop_Mutation",
    "Frame_Shift_Del",
    "Frame_Shift_Ins",
    "In_Frame_Del",
    "In_Frame_Ins",
    "Splice_Site",
    "Translation_Start_Site",
)


@dataclass(frozen=True)
class Hotspots:
    """Recurrent protein changes of one gene; positions are residues of the canonical protein."""

    codons: frozenset[int] = frozenset()  # any missense change of the residue
    changes: frozenset[str] = frozenset()  # exact missense changes, "L858R"
    deletions: tuple[int, int] | None = None  # in-frame deletions that lie in these residues
    insertions: tuple[int, int] | None = None  # in-frame insertions that begin in these residues


# Single residues: the recurrent positions of cancerhotspots.org (Chang 2018, Cancer Discovery 8:174,
# doi:10.1158/2159-8290.CD-17-0321). EGFR: the sensitising and resistance changes that are tested in lung
# cancer; exon 19 = residues 729-761, exon 20 = residues 762-823 of NP_005219.
HOTSPOTS: Mapping[str, Hotspots] = MappingProxyType(
    {
        "KRAS": Hotspots(codons=frozenset({12, 13, 61, 117, 146})),
        "EGFR": Hotspots(
            codons=frozenset({719}),
            changes=frozenset({"L858R", "L861Q", "S768I", "T790M"}),
            deletions=(729, 761),
            insertions=(762, 823),
        ),
        "PIK3CA": Hotspots(codons=frozenset({88, 345, 420, 453, 542, 545, 546, 1043, 1047, 1049})),
    }
)


# ---------------------------------------------------------------- rules


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the closest known name, or an empty text."""
    found = difflib.get_close_matches(name, list(known), n=1)
    if not found:
        folded = {item.casefold(): item for item in known}
        found = [folded[key] for key in difflib.get_close_matches(name.casefold(), list(folded), n=1)]
    return f" (did you mean {found[0]!r}?)" if found else ""


def refuse_unknown(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse keys that nobody reads. Errors: `UserError` naming the section, the key and the nearest match."""
    names = list(known)
    for key in given:
        if key not in names:
            raise UserError(f"{where}: unknown key {key!r}{nearest(str(key), names)}; known keys are {some(names, 30)}")


@dataclass(frozen=True)
class CohortRules:
    """What counts as a usable sample, a mutation and a follow-up. The defaults are those of the benchmark."""

    genes: tuple[str, ...] = ("TP53", "PIK3CA", "KRAS", "EGFR", "PBRM1", "BAP1")
    # A call is accepted if every one of its FILTER tags is among these. PASS alone loses whole-genome
    # amplified samples (most of LAML and OV).
    mutation_filters: tuple[str, ...] = ("PASS", "wga", "native_wga_mix")
    nonsilent: tuple[str, ...] = NONSILENT
    # "mad": log10 burden above median + z * 1.4826 * MAD of the cancer type; z is 3.5 unless given.
    # "sd": above z standard deviations of log10 burden over the whole cohort, counted from zero; z is 5
    # unless given (the filter of Way 2018, Cell Reports 23:172, doi:10.1016/j.celrep.2018.03.046). It fits
    # MC3 with all its types; where spread or median are smaller it flags ordinary tumours.
    hypermutation: Literal["mad", "sd"] = "mad"
    hypermutation_z: float | None = None
    drop_redacted: bool = True
    drop_do_not_use: bool = True
    drop_pathology_excluded: bool = True
    zero_time: float | Literal["drop"] = "drop"  # days that replace a time of zero
    blood_types: tuple[str, ...] = ("LAML",)  # primary sample type is 03
    metastasis_types: tuple[str, ...] = ("SKCM",)  # 06 where a patient has no 01

    def __post_init__(self) -> None:
        if not self.genes or len(set(self.genes)) < len(self.genes):
            raise UserError(
                f"cohort: genes must be a list of different symbols, got {list(self.genes)}; correct the list"
            )
        if self.hypermutation not in ("sd", "mad"):
            raise UserError(f"cohort: hypermutation is {self.hypermutation!r}, expected 'sd' or 'mad'; choose one")
        if self.hypermutation_z is not None and not self.hypermutation_z > 0:
            raise UserError(
                f"cohort: hypermutation_z is {self.hypermutation_z}, expected a number above zero; correct it"
            )
        if isinstance(self.zero_time, str) and self.zero_time != "drop":
            raise UserError(f"cohort: zero_time is {self.zero_time!r}, expected 'drop' or a number of days; choose one")
        if isinstance(self.zero_time, bool) or (not isinstance(self.zero_time, str) and not self.zero_time > 0):
            raise UserError(f"cohort: zero_time is {self.zero_time}, expected 'drop' or days above zero; choose one")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> CohortRules:
        """Read rules from plain data. Errors: `UserError` for an unknown key or an impossible value."""
        refuse_unknown(mapping, [f.name for f in fields(cls)], "cohort")
        given: dict[str, Any] = {}
        for key, value in mapping.items():
            default = getattr(cls, key)
            if isinstance(default, tuple) != isinstance(value, list | tuple):
                kind = "a list" if isinstance(default, tuple) else "one value"
                raise UserError(f"cohort: {key} is {value!r}, expected {kind}; correct it")
            if isinstance(value, list | tuple) and not all(isinstance(item, str) for item in value):
                raise UserError(f"cohort: {key} is {value!r}, expected a list of texts; quote what looks like a number")
            if isinstance(default, bool) and not isinstance(value, bool):
                raise UserError(f"cohort: {key} is {value!r}, expected true or false; correct it")
            if key == "hypermutation_z" and (isinstance(value, bool) or not isinstance(value, int | float | None)):
                raise UserError(f"cohort: {key} is {value!r}, expected a number above zero; correct it")
            given[key] = tuple(value) if isinstance(value, list) else value
        return cls(**given)

    def to_mapping(self) -> dict[str, Any]:
        """Return the rules as plain data for provenance."""
        return {
            f.name: list(value) if isinstance(value := getattr(self, f.name), tuple) else value for f in fields(self)
        }


# ---------------------------------------------------------------- a lab's own tables

SCALES = (
    "counts",
    "tpm",
    "fpkm",
    "rsem_normalised",
    "log2_tpm_plus_0.001",
    "log2_counts_plus_1",
    "log1p_tpm",
    "zscore",
)
QUANTIFIER_ENDINGS = frozenset({".sf", ".tsv", ".txt", ".results", ".tab", ".counts"})  # also .gz
ORIENTATIONS = ("auto", "genes_by_samples", "samples_by_genes")
_ONE_VALUE: tuple[tuple[str, type, str], ...] = (
    *((key, str, "one path") for key in ("samples", "survival", "genes", "transcripts")),
    *((key, bool, "true or false") for key in ("allow_unmatched", "allow_all_censored")),
)
TIME_UNITS: Mapping[str, float] = MappingProxyType({"days": 1.0, "months": 30.44, "years": 365.25})  # in days


@dataclass(frozen=True)
class FilesConfig:
    """The section `cohort.files`: a lab's tables, as paths, and how they are to be read."""

    expression: tuple[str, ...]  # one table or quantifier's folder, or one per cohort
    samples: str
    expression_scale: str | None = None  # may be left out where the format tells it
    orientation: str = "auto"
    survival: str | None = None  # without it, survival stands in `samples`
    mutations: tuple[str, ...] = ()  # long, or genes x samples 0/1
    genes: str | None = None  # symbol, Ensembl id, length in bp; or a GTF, or HGNC's table with earlier symbols
    transcripts: str | None = None  # transcript and gene, or a GTF: for Salmon and kallisto
    strand: str | None = None  # of STAR's ReadsPerGene.out.tab, which is judged by its reads without it
    columns: Mapping[str, str] = field(default_factory=dict)  # ours -> theirs
    cancer_types: Mapping[str, Any] = field(default_factory=dict)  # theirs -> TCGA code, or {name: own name}
    time_unit: str | None = None  # unit of the survival times; undeclared means days, checked for plausibility
    # What it means that a mutation table has no row for a gene.
    mutations_absent_gene: Literal["unknown", "wild_type"] = "unknown"
    allow_unmatched: bool = False  # expression samples without a row in `samples` stay, unprobed
    allow_all_censored: bool = False

    def __post_init__(self) -> None:
        for key, known in (
            ("expression_scale", (None, *SCALES)),
            ("strand", (None, "unstranded", "forward", "reverse")),
            ("orientation", ORIENTATIONS),
            ("time_unit", (None, *TIME_UNITS)),
            ("mutations_absent_gene", ("unknown", "wild_type")),
        ):
            value = getattr(self, key)
            if value not in known:
                names = [str(item) for item in known if item is not None]
                raise UserError(
                    f"cohort.files: {key} is {value!r}{nearest(str(value), names)}, expected one of {some(names)}"
                )

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> FilesConfig:
        """Read the section from plain data (one path or a list where several are allowed).

        Errors: `UserError` for an unknown key (with the nearest match), a missing key or an unknown value.
        """
        refuse_unknown(mapping, [f.name for f in fields(cls)], "cohort.files")
        given = {key: value for key, value in mapping.items() if value is not None}
        for key in ("expression", "samples"):
            if not given.get(key):
                raise UserError(f"cohort.files: {key} is missing; name it (see the example configuration)")
        for key in ("expression", "mutations"):
            value = given.get(key, ())
            given[key] = (value,) if isinstance(value, str) else value
            if not isinstance(given[key], list | tuple) or not all(isinstance(path, str) for path in given[key]):
                raise UserError(f"cohort.files: {key} is {value!r}, expected a path or a list of paths; correct it")
            given[key] = tuple(given[key])
        for key, kind, wanted in _ONE_VALUE:
            if key in given and not isinstance(given[key], kind):
                raise UserError(f"cohort.files: {key} is {given[key]!r}, expected {wanted}; correct it")
        for key in ("columns", "cancer_types"):
            if not isinstance(given.setdefault(key, {}), Mapping):
                raise UserError(f"cohort.files: {key} is {given[key]!r}, expected a mapping; write key: value lines")
        for ours, theirs in given["columns"].items():
            if not isinstance(theirs, str):
                raise UserError(f"cohort.files.columns: {ours} is {theirs!r}, expected a column name; quote a number")
        return cls(**given)

    def to_mapping(self) -> dict[str, Any]:
        """Return the section as plain data, ready for JSON or YAML."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return plain | {
            "expression": list(self.expression),
            "mutations": list(self.mutations),
            "columns": dict(self.columns),
            "cancer_types": dict(self.cancer_types),
        }
