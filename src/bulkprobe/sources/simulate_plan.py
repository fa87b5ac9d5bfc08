"""What the simulator plants, and the carried facts about genes and cancer types that it imitates."""

from __future__ import annotations

from importlib import resources

import pandas as pd

GENES = ("TP53", "PIK3CA", "KRAS", "EGFR", "PBRM1", "BAP1")
# Shift of the gene's program in mutated tumours, in standard deviations of its activity.
EFFECTS = {"TP53": 2.6, "KRAS": 2.4, "PBRM1": 1.0, "PIK3CA": 0.8, "EGFR": 0.0, "BAP1": 0.0}
STRENGTHS = {
    "TP53": "strong",
    "KRAS": "strong",
    "PBRM1": "weak",
    "PIK3CA": "weak",
    "EGFR": "none",
    "BAP1": "none",
}
PROGRAMS = ("TP53", "KRAS", "PBRM1", "PIK3CA", "prognosis")  # the remaining programs are mere co-expression
N_PROGRAMS = 20
# Log hazard per standard deviation of the prognostic program.
PROGNOSIS = {
    "KIRC": 1.1, "KIRP": 1.1, "LIHC": 1.1, "GBM": 0.9, "LGG": 0.9, "LUAD": 0.9, "BRCA": 0.5, "PAAD": 0.5, "BLCA": 0.5,
}  # fmt: skip
PROGNOSIS_SHARE = 4.0  # genes of the prognostic program, in units of the other programs
AGE_EFFECT = 0.25  # log hazard per standard deviation of age, in every type
WEIBULL_SHAPE = 1.2
# Labels probed within types: each gets at least this many positives where the type has 100 patients.
WITHIN_TYPE = {
    "BRCA": ("TP53", "PIK3CA"), "COAD": ("KRAS", "TP53"), "LUAD": ("EGFR", "KRAS"), "KIRC": ("PBRM1", "BAP1"),
}  # fmt: skip
LEAST_POSITIVES = 31
LEAST_PATIENTS, LEAST_EVENTS = 100, 30  # of a probed type, and of its labels, after the drops of the stage `cohort`
HYPERMUTATED = {"UCEC": 0.10, "COAD": 0.10, "STAD": 0.08, "SKCM": 0.05}
UNPROFILED, REDACTED, ZERO_TIME, MISSING_TIME = 0.04, 0.005, 0.009, 0.006
SEX_GENES = {"XIST": "female", "RPS4Y1": "male", "DDX3Y": "male", "KDM5D": "male", "UTY": "male"}
LIBRARY_MEDIAN, LIBRARY_SD = 4.5e7, 0.35  # counts a sample; sd of the natural log


def gene_facts() -> pd.DataFrame:
    """Return the carried gene facts: ensembl_id, symbol, length (bp)."""
    path = resources.files("bulkprobe.sources") / "tables" / "genes.tsv.gz"
    with resources.as_file(path) as file:
        return pd.read_csv(file, sep="\t", comment="#", compression="gzip")


def cancer_figures() -> pd.DataFrame:
    """Return the carried figures of TCGA cancer types, indexed by study code."""
    path = resources.files("bulkprobe.sources") / "tables" / "cancer_types.tsv"
    with resources.as_file(path) as file:
        return pd.read_csv(file, sep="\t", comment="#", index_col="code")
