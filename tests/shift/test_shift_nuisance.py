"""What a linear probe reads of library size, site and plate: what was planted, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from bulkprobe.probes.metrics import within_type_auroc
from bulkprobe.probes.transform import Transform
from bulkprobe.shift.nuisance import Classes, Number, aurocs_within, read_nuisances
from bulkprobe.stages.shift import plates, prepared

N = 400
RNG = np.random.default_rng(0)
TYPES = np.array(["KIRC", "LUAD", "BRCA", "GBM"])[np.arange(N) % 4]
# Two sites of each type; a plate says nothing of type or site.
SITES = np.array([f"{kind}{number}" for kind, number in zip(TYPES, RNG.integers(0, 2, N), strict=True)])
PLATES = np.array([f"A{number}" for number in RNG.integers(0, 10, N)])
LIBRARY = RNG.normal(7, 0.3, N)


def plain(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return prepared(Transform(), train, test)


def scores(vectors: np.ndarray, **targets: Number | Classes) -> dict[str, dict[str, object]]:
    return read_nuisances(vectors, targets, TYPES, plain, 0)


def planted(noise: float = 0.3) -> np.ndarray:
    """Vectors that carry library size, cancer type and site, and no plate."""
    rng = np.random.default_rng(1)
    sites = np.unique(SITES, return_inverse=True)[1]
    parts = [LIBRARY[:, None] * 3, np.eye(8)[sites], rng.normal(size=(N, 20))]
    vectors = np.concatenate(parts, axis=1) @ rng.normal(size=(29, 40))
    return (vectors + noise * rng.normal(size=(N, 40))).astype(np.float32)


def test_planted_library_size_is_read_and_noise_is_not() -> None:
    found = scores(planted(), library_size=Number(LIBRARY), noise=Number(np.random.default_rng(2).normal(size=N)))
    assert found["library_size"]["value"] > 0.8
    assert found["library_size"]["n"] == N
    assert -0.1 < found["noise"]["value"] < 0.1
    empty = scores(np.random.default_rng(3).normal(size=(N, 40)), library_size=Number(LIBRARY))
    assert -0.1 < empty["library_size"]["value"] < 0.1


def test_planted_site_is_read_and_plate_is_not() -> None:
    found = scores(planted(), site=Classes(SITES), plate=Classes(PLATES))
    assert found["site"]["value"] > 0.9
    assert found["site"]["within_type"] > 0.8
    assert found["site"]["classes"] == 8
    assert abs(found["plate"]["value"] - 0.5) < 0.1
    assert abs(found["plate"]["within_type"] - 0.5) < 0.1


def test_within_a_cancer_type_the_type_earns_nothing() -> None:
    """Vectors that carry the type alone: a site is guessed from it, but not told from the type's other site."""
    vectors = np.eye(4)[np.arange(N) % 4] + 0.01 * np.random.default_rng(4).normal(size=(N, 4))
    found = scores(vectors, site=Classes(SITES))["site"]
    assert found["value"] > 0.85
    assert abs(found["within_type"] - 0.5) < 0.1


def test_the_auroc_of_many_classes_is_the_metric_of_each() -> None:
    rng = np.random.default_rng(5)
    truth, score = rng.random((90, 3)) < 0.3, rng.integers(0, 9, (90, 3)).astype(np.float64)
    strata = rng.integers(0, 7, 90)
    each = [within_type_auroc(truth[:, c], score[:, c], strata).value for c in range(3)]
    assert aurocs_within(truth, score, strata) == pytest.approx(np.mean(each))
    score[:, 1] = strata  # tied within every stratum: left out
    assert aurocs_within(truth, score, strata) == pytest.approx((each[0] + each[2]) / 2)
    assert aurocs_within(truth, np.zeros((90, 3)), strata) is None


def test_what_is_not_known_is_left_out() -> None:
    sites, library = SITES.copy(), LIBRARY.copy()
    sites[:100], library[300:] = "", np.nan
    found = scores(planted(), site=Classes(sites), library_size=Number(library))
    assert (found["site"]["n"], found["library_size"]["n"]) == (300, 300)
    assert found["site"]["value"] > 0.85
    assert found["library_size"]["value"] > 0.7


def test_undefined_nuisances_say_why() -> None:
    rare = np.array([f"x{number // 5}" for number in range(N)])
    found = scores(
        planted(),
        library_size=Number(np.ones(N)),
        n_expressed=Number(np.full(N, np.nan)),
        site=Classes(rare),
        plate=Classes(np.full(N, ""), "no plates"),
        one=Classes(np.full(N, "same")),
        alone=Classes(TYPES),
    )
    assert all(found[name]["value"] is None for name in found if name != "alone")
    assert "same value" in found["library_size"]["reason"]
    assert "0 of 400" in found["n_expressed"]["reason"]
    assert "no class has 10" in found["site"]["reason"]
    assert found["plate"]["reason"] == "no plates"
    assert "one class" in found["one"]["reason"]
    assert found["alone"]["within_type"] is None
    assert found["alone"]["reason"].startswith("within_type")
    few = read_nuisances(planted()[:8], {"library_size": Number(LIBRARY[:8])}, TYPES[:8], plain, 0)
    assert few["library_size"]["value"] is None


def test_wide_embeddings_keep_what_their_leading_components_carry() -> None:
    wide = planted() @ np.random.default_rng(6).normal(size=(40, 700))
    found = scores(wide.astype(np.float32), library_size=Number(LIBRARY))
    assert found["library_size"]["value"] > 0.8
    narrow = prepared(Transform(), wide[:300], wide[300:])
    assert narrow[0].shape[1] == narrow[1].shape[1] <= 512


def test_plates_stand_in_aliquot_barcodes() -> None:
    import pandas as pd

    found = plates(pd.DataFrame({"aliquot": ["TCGA-02-0001-01C-01R-0182-01", None, "TCGA-02-0001", "lab-7"]}))
    assert found.names.tolist() == ["0182", "", "", ""]
    assert found.reason is None
    assert "barcodes" in str(plates(pd.DataFrame({"aliquot": [None, "lab-7-1-1-1-1"]})).reason)
