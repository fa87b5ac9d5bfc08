"""STAR counts of the GDC: one file per aliquot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bulkprobe.cohort.gdc_star import GdcStar
from bulkprobe.cohort.store import open_expression, write_expression
from bulkprobe.errors import UserError

GENES = [f"ENSG{i:011d}.{i % 7 + 1}" for i in range(40)] + ["ENSG00000000003.4_PAR_Y"]
HEADER = (
    "gene_id\tgene_name\tgene_type\tunstranded\tstranded_first\tstranded_second\ttpm_unstranded\tfpkm_unstranded\t"
    "fpkm_uq_unstranded"
)


def star_text(counts: np.ndarray, tpm: np.ndarray, genes: list[str] = GENES) -> str:
    lines = ["# gene-model: GENCODE v36", HEADER]
    lines += [
        f"N_{name}\t\t\t{n}\t{n}\t{n}\t\t\t"
        for n, name in enumerate(["unmapped", "multimapping", "noFeature", "ambiguous"])
    ]
    lines += [
        f"{g}\tA\tprotein_coding\t{c:.0f}\t1\t2\t{t:.4f}\t0.1\t0.2" for g, c, t in zip(genes, counts, tpm, strict=True)
    ]
    return "\n".join(lines) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(5):
        counts = rng.poisson(200, len(GENES))
        path = tmp_path / f"id{i}" / f"f{i}.rna_seq.augmented_star_gene_counts.tsv"
        path.parent.mkdir()
        path.write_text(star_text(counts, counts / counts.sum() * 1e6))
        barcode = f"TCGA-AA-000{i // 2}-01A"
        rows.append(
            [f"id{i}", path.name, "0" * 32, 1, barcode, f"{barcode}-1{i}R-0001-07", "TCGA-ACC", "Primary Tumor"]
        )
    names = ["file_id", "file_name", "md5", "size", "sample_barcode", "aliquot_barcode", "project", "sample_type"]
    pd.DataFrame(rows, columns=names).to_csv(tmp_path / "manifest.tsv", sep="\t", index=False)
    return tmp_path


def star_file(folder: Path, number: int) -> Path:
    return folder / f"id{number}" / f"f{number}.rna_seq.augmented_star_gene_counts.tsv"


def naive(folder: Path, column: str) -> np.ndarray:
    tables = [pd.read_csv(star_file(folder, i), sep="\t", comment="#") for i in range(5)]
    return np.stack([t[t["gene_id"].str.match(r"ENSG\d+\.\d+$")][column].to_numpy(np.float32) for t in tables])


def test_into_a_store(folder: Path, tmp_path: Path) -> None:
    star = GdcStar(folder)
    assert star.gene_ids == [gene.split(".")[0] for gene in GENES[:-1]]
    assert star.notes == {"par_y_rows_dropped": 1}
    assert star.aliquots["sample_id"].tolist() == [f"TCGA-AA-000{i // 2}-01A" for i in range(5)]
    assert star.aliquots["aliquot"].tolist() == star.sample_ids == star.counts.sample_ids
    var = pd.DataFrame({"ensembl_id": star.gene_ids, "symbol": "A", "length": 100.0})
    picked = [3, 0, 4]
    path = write_expression(
        tmp_path / "out",
        sample_ids=[star.aliquots["sample_id"][i] for i in picked],
        keep=[star.sample_ids[i] for i in picked],
        var=var,
        layers={"X": star.counts, "tpm": star.tpm},
        scale="counts",
    )
    store = open_expression(path)
    assert store.sample_ids == ["TCGA-AA-0001-01A", "TCGA-AA-0000-01A", "TCGA-AA-0002-01A"]
    np.testing.assert_array_equal(store.read(), naive(folder, "unstranded")[picked])
    np.testing.assert_array_equal(store.read("tpm"), naive(folder, "tpm_unstranded")[picked])


def spoil(folder: Path, old: str, new: str, number: int = 2) -> None:
    path = star_file(folder, number)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ENSG00000000005.6\t", "ENSG00000000999.6\t", "lists other genes than f0.*2 in one only: ENSG00000000005.6"),
        ("tpm_unstranded", "tpm", "is not a table of STAR counts"),
        ("protein_coding\t", "protein_coding\tx", "is not a table of STAR counts"),
        (
            "ENSG00000000007.1\tA\tprotein_coding\t",
            "ENSG00000000007.1\tA\tprotein_coding\t-",
            r"negative value: -\d+ \(gene ENSG00000000007.1, sample TCGA-AA-0001-01A-12R",
        ),
        (
            "\t0.1\t0.2\nENSG00000000008.2\tA\tprotein_coding\t",
            "\t0.1\t0.2\nENSG00000000008.2\tA\tprotein_coding\t\t1\t",
            "is not a table|missing value|infinite",
        ),
    ],
)
def test_wrong_star_files(folder: Path, old: str, new: str, message: str) -> None:
    spoil(folder, old, new)
    star = GdcStar(folder)
    with pytest.raises(UserError, match=message), star.counts.rows(np.arange(5), folder) as rows:
        rows.read(0, 5)


def test_tpm_that_is_none(folder: Path) -> None:
    path = star_file(folder, 1)
    path.write_text(star_text(np.full(len(GENES), 100), np.full(len(GENES), 1e5)))
    star = GdcStar(folder)
    with pytest.raises(UserError, match="adds up to"), star.tpm.rows(np.arange(5), folder) as rows:
        rows.read(0, 5)


def test_wrong_first_file(folder: Path) -> None:
    spoil(folder, "ENSG00000000005.6", "ENSG00000000004.9", 0)
    with pytest.raises(UserError, match=r"repeated genes \(version left off\): ENSG00000000004"):
        GdcStar(folder)
    star_file(folder, 0).write_text("# gene-model\n" + HEADER + "\n")
    with pytest.raises(UserError, match="has no genes"):
        GdcStar(folder)


def test_wrong_manifest(folder: Path) -> None:
    manifest = pd.read_csv(folder / "manifest.tsv", sep="\t")

    def put(table: pd.DataFrame) -> None:
        table.to_csv(folder / "manifest.tsv", sep="\t", index=False)

    put(pd.concat([manifest, manifest[:1]]))
    with pytest.raises(UserError, match="lists aliquots twice: TCGA-AA-0000-01A-10R"):
        GdcStar(folder)
    put(manifest.drop(columns="aliquot_barcode"))
    with pytest.raises(UserError, match="lacks the columns aliquot_barcode"):
        GdcStar(folder)
    put(manifest[:0])
    with pytest.raises(UserError, match="is an empty table"):
        GdcStar(folder)
    put(manifest)
    star_file(folder, 3).unlink()
    with pytest.raises(UserError, match="1 STAR files of the manifest are missing: f3"):
        GdcStar(folder)
    (folder / "manifest.tsv").unlink()
    with pytest.raises(UserError, match=r"manifest\.tsv is missing"):
        GdcStar(folder)
