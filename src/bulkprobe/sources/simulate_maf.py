"""The simulated mutation calls, as an MC3 MAF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from bulkprobe.files import atomic_path
from bulkprobe.sources.headers import MAF_COLUMNS
from bulkprobe.sources.simulate import Simulation
from bulkprobe.sources.simulate_formats import aliquot_barcode, packed_text, write_rows
from bulkprobe.sources.simulate_plan import EFFECTS

MAF_ROWS = 20_000  # written at a time
# Where the labelled genes are hit, with the share of calls at hotspots as it is known from the tumours themselves.
HOTSPOTS = {
    "KRAS": (0.95, ("p.G12D", "p.G12V", "p.G12C", "p.G13D", "p.Q61H")),
    "EGFR": (0.75, ("p.L858R", "p.G719A", "p.L861Q")),
    "PIK3CA": (0.75, ("p.H1047R", "p.E545K", "p.E542K", "p.H1047L", "p.N345K")),
    "TP53": (0.35, ("p.R175H", "p.R248Q", "p.R273H", "p.R282W")),
}
NON_SILENT = (
    "Missense_Mutation",
    "Nonsense_Mutation",
    "Frame_Shift_Del",
    "Splice_Site",
    "In_Frame_Del",
    "Frame_Shift_Ins",
)
NON_SILENT_SHARE = (0.82, 0.06, 0.05, 0.03, 0.02, 0.02)
SILENT = ("Silent", "Intron", "3'UTR", "RNA", "Splice_Region")


# Loss of function is spread over the gene: these classes beside missense.
TRUNCATED = ("TP53", "PBRM1", "BAP1")
NO_PROTEIN_CHANGE = ("Intron", "3'UTR", "RNA", "Splice_Region")


def hit_class(gene: str, rng: np.random.Generator) -> str:
    """The class of a call that makes a labelled gene mutated."""
    if gene in TRUNCATED:
        return str(rng.choice(["Missense_Mutation", "Nonsense_Mutation", "Frame_Shift_Del"], p=[0.6, 0.2, 0.2]))
    if gene == "EGFR":  # exon 19 deletions beside the substitutions
        return str(rng.choice(["Missense_Mutation", "In_Frame_Del"], p=[0.65, 0.35]))
    return "Missense_Mutation"


def protein_change(gene: str, kind: str, rng: np.random.Generator) -> str:
    """A protein change of the class, at a hotspot as often as the gene has it; "." where there is none."""
    place = int(rng.integers(20, 400))
    if kind in NO_PROTEIN_CHANGE:
        return "."
    share, hotspots = HOTSPOTS.get(gene, (0.0, ()))
    if kind == "In_Frame_Del" and gene == "EGFR":
        return "p.E746_A750del"
    if kind == "Missense_Mutation" and rng.random() < share:
        return str(rng.choice(hotspots))
    changes = {
        "Missense_Mutation": f"p.A{place}T",
        "Nonsense_Mutation": f"p.R{place}*",
        "Splice_Site": f"p.X{place}_splice",
        "In_Frame_Del": f"p.E{place}_A{place + 4}del",
        "Silent": f"p.L{place}=",
    }
    return changes.get(kind, f"p.K{place}fs")


def write_maf(path: Path, drawn: Simulation, rng: np.random.Generator) -> None:
    """Every profiled patient's calls: the labelled genes, passengers, silent ones; some calls fail the filter."""
    calls: list[pd.DataFrame] = []
    primary = drawn.samples[drawn.samples.sample_type.isin(["01", "03", "06"])]
    sample_of = primary.sort_values("sample_type").groupby("patient").sample_id.first()
    background = drawn.genes.symbol[~drawn.genes.symbol.isin(list(EFFECTS))].to_numpy()
    table, mutated = drawn.patients, drawn.mutated.to_numpy()
    whole_genome_amplified = rng.random(len(table)) < np.where(table.cancer_type.isin(["LAML", "OV"]), 0.8, 0.03)
    for i in np.flatnonzero(table.profiled):
        barcode = aliquot_barcode(str(sample_of[i]), "W" if whole_genome_amplified[i] else "D")
        hit = [gene for gene, is_mutated in zip(drawn.mutated.columns, mutated[i], strict=True) if is_mutated]
        n = int(table.burden[i])
        silent = rng.integers(3, 3 + max(2, n // 3))
        symbols = [*hit, *rng.choice(background, n), *rng.choice(background, silent)]
        classes = [
            *[hit_class(gene, rng) for gene in hit],
            *rng.choice(NON_SILENT, n, p=NON_SILENT_SHARE),
            *rng.choice(SILENT, silent),
        ]
        # Wild-type labelled genes may still carry silent or filtered calls, which must not count.
        for gene in EFFECTS:
            if gene not in hit and rng.random() < 0.01:
                symbols.append(gene)
                classes.append("Silent")
        verdict = str(rng.choice(["wga", "native_wga_mix,wga"])) if whole_genome_amplified[i] else "PASS"
        filters = np.where(rng.random(len(symbols)) < 0.04, "oxog", verdict).astype(object)
        filters[: len(hit)] = verdict
        spared = [g for g in EFFECTS if g not in hit]
        if spared and rng.random() < 0.03:
            symbols.append(spared[0])
            classes.append("Missense_Mutation")
            filters = np.append(filters, "common_in_exac")
        short = [protein_change(str(symbol), str(kind), rng) for symbol, kind in zip(symbols, classes, strict=True)]
        calls.append(
            pd.DataFrame(
                {
                    "Hugo_Symbol": symbols,
                    "Variant_Classification": classes,
                    "Tumor_Sample_Barcode": barcode,
                    "Matched_Norm_Sample_Barcode": aliquot_barcode(f"{table.patient_id[i]}-10", "D"),
                    "HGVSp_Short": short,
                    "FILTER": filters,
                }
            )
        )
    maf = pd.concat(calls, ignore_index=True)
    position = rng.integers(10_000, 240_000_000, len(maf))
    constant = {
        "Center": ".",
        "NCBI_Build": "GRCh37",
        "Strand": "+",
        "Mutation_Status": ".",
    }
    lookup = drawn.genes.set_index("symbol").ensembl_id
    with atomic_path(path) as aside, aside.open("wb") as file, packed_text(file) as packed:
        packed.write(("\t".join(MAF_COLUMNS) + "\n").encode())
        for start in range(0, len(maf), MAF_ROWS):
            part = maf.iloc[start : start + MAF_ROWS]
            columns = []
            for name in MAF_COLUMNS:
                if name in part:
                    columns.append(pa.array(part[name].astype(str)))
                elif name in ("Start_Position", "End_Position"):
                    columns.append(pa.array(position[start : start + MAF_ROWS].astype(str)))
                elif name in ("Gene", "SYMBOL"):
                    columns.append(
                        pa.array(part.Hugo_Symbol if name == "SYMBOL" else lookup.loc[part.Hugo_Symbol].to_numpy())
                    )
                elif name == "Variant_Type":
                    kinds = part.Variant_Classification.astype(str)
                    deleted, inserted = kinds.str.endswith("_Del"), kinds.str.endswith("_Ins")
                    columns.append(pa.array(np.where(deleted, "DEL", np.where(inserted, "INS", "SNP"))))
                elif name == "Chromosome":
                    columns.append(pa.array(["1"] * len(part)))
                else:
                    columns.append(pa.array([constant.get(name, ".")] * len(part)))
            write_rows(packed, pa.table(columns, names=list(MAF_COLUMNS)))


CLINICAL_STAGE_ONLY = ("OV", "UCEC")
