from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bulkprobe.encoders import get_encoder
from bulkprobe.encoders.base import CohortView, embed_blocks
from bulkprobe.errors import Unfit, UserError

GENES = pd.DataFrame(
    {
        "ensembl_id": [f"ENSG{i:011d}" for i in range(40)],
        "symbol": [f"GENE{i}" for i in range(40)],
        "length": np.arange(40) * 100.0 + 500,
    }
)
SAMPLES = pd.DataFrame(
    {
        "sample_id": [f"S{i}" for i in range(9)],
        "cancer_type": ["BRCA", "COAD", "BRCA", "LUAD", "COAD", "BRCA", "LUAD", "LUAD", "COAD"],
        "age": [61.0, 45.0, np.nan, 70.0, 33.0, 90.0, 58.0, 66.0, 71.0],
        "sex": ["female", "male", None, "male", "female", "female", "male", "female", "male"],
        "stage": ["I", None, "IV", "II", "III", "I", "II", None, "IV"],
        "log10_mutation_burden": [1.2, np.nan, 2.0, 1.1, 3.1, 1.5, 1.4, 1.3, 1.9],
        "purity": [0.5, 0.7, np.nan, 0.9, 0.4, 0.6, 0.8, 0.3, 0.5],
        "msi": [None] * 9,
        "subtype": [None] * 9,
    }
)
TPM = np.random.default_rng(1).gamma(1.0, 50.0, (9, 40)).astype(np.float32)


def vectors(name: str, var: pd.DataFrame = GENES, tpm: np.ndarray = TPM, **options: Any) -> np.ndarray:
    session = get_encoder(name).start(CohortView(var, SAMPLES, "counts"), options)
    values = None if session.layer is None else tpm
    return np.concatenate(list(embed_blocks(session, [(values, SAMPLES)], name)))


def attributes(name: str, **options: Any) -> Mapping[str, Any]:
    return get_encoder(name).start(CohortView(GENES, SAMPLES, "counts"), options).attributes


BASELINES = ("expression", "pca", "hvg", "random_projection", "cancer_type", "clinical", "burden")


@pytest.mark.parametrize("name", BASELINES)
def test_a_vector_depends_on_its_sample_alone(name: str) -> None:
    whole = vectors(name)
    session = get_encoder(name).start(CohortView(GENES, SAMPLES, "counts"), {})
    order = [4, 0, 8, 2, 6, 1, 7, 3, 5]
    for row in order:
        values = None if session.layer is None else TPM[[row]]
        alone = session.embed(values, SAMPLES.iloc[[row]])
        np.testing.assert_array_equal(alone[0], whole[row])


def test_expression_is_log2_of_tpm_plus_one() -> None:
    np.testing.assert_allclose(vectors("expression"), np.log2(TPM + 1), rtol=1e-6)


def test_z_scores_stay_as_they_are() -> None:
    session = get_encoder("expression").start(CohortView(GENES, SAMPLES, "zscore"), {})
    assert session.layer == "X"
    np.testing.assert_array_equal(session.embed(-TPM, SAMPLES), -TPM)


@pytest.mark.parametrize(
    ("name", "option", "transform"),
    [
        ("expression", {}, {"kind": "none"}),
        ("pca", {"components": 7}, {"kind": "pca", "size": 7}),
        ("hvg", {"genes": 11}, {"kind": "hvg", "size": 11}),
    ],
)
def test_what_is_fitted_is_left_to_the_probe(name: str, option: dict[str, int], transform: dict[str, Any]) -> None:
    assert attributes(name, **option)["probe_transform"] == transform
    np.testing.assert_array_equal(vectors(name, **option), vectors("expression"))


def test_random_directions_do_not_depend_on_gene_order_or_on_other_genes() -> None:
    order = np.random.default_rng(2).permutation(40)
    shuffled = vectors("random_projection", GENES.iloc[order].reset_index(drop=True), TPM[:, order], width=16)
    np.testing.assert_allclose(shuffled, vectors("random_projection", width=16), rtol=1e-4, atol=1e-4)
    extra = pd.concat([GENES, GENES.assign(ensembl_id=GENES.ensembl_id + "X")], ignore_index=True)
    silent = np.concatenate([TPM, np.zeros_like(TPM)], axis=1)
    np.testing.assert_allclose(
        vectors("random_projection", extra, silent, width=16),
        vectors("random_projection", width=16),
        rtol=1e-4,
        atol=1e-4,
    )
    assert not np.allclose(vectors("random_projection", width=16), vectors("random_projection", width=16, draw_seed=1))


def test_random_directions_keep_distances_on_average() -> None:
    wide = vectors("random_projection", width=4096)
    log = np.log2(TPM + 1)
    np.testing.assert_allclose(np.linalg.norm(wide, axis=1), np.linalg.norm(log, axis=1), rtol=0.1)


def test_cancer_type_is_one_indicator_a_type() -> None:
    found = vectors("cancer_type")
    assert found.shape == (9, 4)
    np.testing.assert_array_equal(found.sum(axis=1), 1.0)
    assert attributes("cancer_type")["categories"] == ["BRCA", "COAD", "LUAD"]


def test_missing_clinical_facts_are_marked_and_never_invented() -> None:
    found = vectors("clinical")
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[:, 1], SAMPLES.age.isna())
    assert found[2, 0] == 0.0
    assert found[5, 0] == pytest.approx(3.0)  # 90 years: three decades above 60
    np.testing.assert_array_equal(found[:, 3], SAMPLES.sex.isna())
    np.testing.assert_array_equal(found[:, 5], SAMPLES.stage.isna())


def test_missing_burden_and_purity_are_marked() -> None:
    found = vectors("burden")
    np.testing.assert_array_equal(found[:, 1], SAMPLES.log10_mutation_burden.isna())
    np.testing.assert_array_equal(found[:, 3], SAMPLES.purity.isna())


def test_an_unknown_encoder_gets_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"there is no encoder 'expresion'; did you mean 'expression'\?"):
        get_encoder("expresion")
    with pytest.raises(UserError, match=r"there is no encoder 'zzzzz'; known: cellfm, geneformer"):
        get_encoder("zzzzz")


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(UserError, match="encoder pca has no option component: its options are components"):
        vectors("pca", component=3)


def test_a_scale_that_cannot_be_read_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="encoder expression cannot read expression on the scale 'microarray'"):
        get_encoder("expression").start(CohortView(GENES, SAMPLES, "microarray"), {})


def test_a_vector_that_is_not_finite_names_the_sample() -> None:
    broken = TPM.copy()
    broken[3, 0] = np.inf
    session = get_encoder("expression").start(CohortView(GENES, SAMPLES, "counts"), {})
    with pytest.raises(UserError, match="encoder expression gave NaN or infinite values for S3"):
        list(embed_blocks(session, [(broken, SAMPLES)], "expression"))


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        (
            "pca",
            {"components": "abc"},
            "encoder pca: option components is 'abc', expected a whole number of at least 1",
        ),
        ("hvg", {"genes": 0}, "option genes is 0, expected a whole number of at least 1"),
        ("random_projection", {"width": 2.5}, "option width is 2.5"),
        ("random_projection", {"draw_seed": -1}, "option draw_seed is -1, expected a whole number of at least 0"),
    ],
)
def test_an_option_of_the_wrong_kind_is_refused(name: str, option: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        vectors(name, **option)


def test_a_store_of_genes_by_position_says_which_genes() -> None:
    session = get_encoder("expression").start(CohortView(GENES, SAMPLES, "counts"), {})
    again = get_encoder("expression").start(CohortView(GENES.iloc[::-1], SAMPLES, "counts"), {})
    assert session.attributes["genes_sha256"] != again.attributes["genes_sha256"]
    assert "genes_sha256" not in attributes("random_projection")


@pytest.mark.parametrize(
    ("name", "column"), [("clinical", "age"), ("burden", "purity"), ("cancer_type", "cancer_type")]
)
def test_samples_of_which_nothing_is_known_are_refused_by_name(name: str, column: str) -> None:
    with pytest.raises(Unfit, match=f"encoder {name} reads {column} of the samples, and this input does not say it"):
        get_encoder(name).start(CohortView(GENES, SAMPLES.drop(columns=column), "counts"), {})
