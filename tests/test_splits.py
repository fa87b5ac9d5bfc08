from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from bulkprobe.errors import UserError
from bulkprobe.splits import COLUMNS, RARE, Cohort, Scheme, assemble, make_splits


def study(n: int, n_types: int, n_labels: int, n_sites: int, seed: int) -> tuple[pd.Series, pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(seed)
    ids = pd.Index([f"P{number:05d}" for number in rng.permutation(n)])
    kind = rng.integers(0, n_types, size=n)
    rate = rng.uniform(0.05, 0.7, size=(n_types, n_labels))
    labels = pd.DataFrame(rng.random((n, n_labels)) < rate[kind], index=ids, columns=[f"G{j}" for j in range(n_labels)])
    sites = pd.Series([f"S{k:02d}" for k in rng.integers(0, n_sites, size=n)], index=ids)
    return pd.Series([f"T{k}" for k in kind], index=ids), labels, sites


def off_share(values: pd.Series, chosen: pd.Series, share: float) -> float:
    """Patients that the worst stratum is off its share; rare ones count together, as the rule says."""
    size = values.map(values.value_counts())
    values = values.where(size >= RARE, "rare")
    table = pd.crosstab(values, chosen.to_numpy())
    if True not in table:
        return float((table.sum(axis=1) * share).max())
    return float((table[True] - share * table.sum(axis=1)).abs().max())


@given(st.integers(12, 150), st.integers(1, 6), st.integers(0, 1000))
@settings(deadline=None, max_examples=15)
def test_every_stratum_is_within_a_patient_of_its_share(n: int, n_types: int, seed: int) -> None:
    types, labels, sites = study(n, n_types, 1, 5, seed)
    status = types + " " + labels["G0"].astype(str)
    table = make_splits(status, labels, sites, n_splits=2, inner_folds=3, seed=seed)
    for _, part in table.groupby("split"):
        part = part.set_index("patient_id")
        assert sorted(part.index) == sorted(types.index)
        assert off_share(status.loc[part.index], part["role"] == "test", 0.2) <= 1.0 + 1e-9
        train = part[part["role"] == "train"]
        assert (part.loc[part["role"] == "test", "fold"] == -1).all()
        assert set(train["fold"]) == {0, 1, 2}
        assert abs((part["role"] == "test").sum() - 0.2 * n) <= 1.0 + 1e-9
        sizes = train["fold"].value_counts()
        assert sizes.max() - sizes.min() <= 1


@given(st.integers(60, 250), st.integers(2, 5), st.integers(2, 3), st.integers(0, 1000))
@settings(deadline=None, max_examples=10)
def test_types_keep_their_share_and_labels_come_near_theirs(n: int, n_types: int, n_labels: int, seed: int) -> None:
    types, labels, sites = study(n, n_types, n_labels, 5, seed)
    table = assemble([Cohort("mutation", "pan_cancer", types, labels, sites)], n_splits=1, inner_folds=3, seed=seed)
    part = table[table["label"] == "pan_cancer/G0"].set_index("patient_id")
    test = part["role"] == "test"
    assert off_share(types.loc[part.index], test, 0.2) <= 1.0 + 1e-9
    for label in labels:
        total = int(labels[label].sum())
        # The best of many random splits lies well inside one standard error of a single random one.
        error = np.sqrt(max(total * 0.2 * 0.8, 1.0))
        assert abs(labels[label].loc[part.index[test]].sum() - 0.2 * total) <= error


def test_labels_of_one_type_are_stratified_jointly() -> None:
    _, labels, sites = study(200, 1, 2, 5, 9)
    types = pd.Series("KIRC", index=labels.index)
    table = assemble([Cohort("mutation", "KIRC", types, labels, sites)], n_splits=4, inner_folds=3, seed=1)
    joint = labels.astype(str).agg(" ".join, axis=1)
    for _, part in table[table["label"] == "KIRC/G0"].groupby("split"):
        part = part.set_index("patient_id")
        assert off_share(joint.loc[part.index], part["role"] == "test", 0.2) <= 1.0 + 1e-9


def test_a_type_s_share_in_training_says_nothing_about_the_test_part() -> None:
    """Labels shuffled over all patients: the share of positives of a type in training must not predict the test part.

    Splits stratified by type x label fail this with a score near 0.56.
    """
    scores = []
    ids = [f"P{number:04d}" for number in range(800)]
    types = pd.Series(np.repeat([f"T{k}" for k in range(16)], 50), index=ids)
    for seed in range(60):
        shuffled = np.random.default_rng(seed).permutation(np.arange(800) < 280)
        labels = pd.DataFrame({"G": shuffled}, index=ids)
        table = assemble([Cohort("mutation", "pan", types, labels, types)], n_splits=1, inner_folds=2, seed=seed)
        part = table.set_index("patient_id")
        train, test = (part.index[part["role"] == role].astype(str) for role in ("train", "test"))
        share = labels["G"].loc[train].groupby(types.loc[train].to_numpy()).mean()
        scores.append(roc_auc_score(labels["G"].loc[test], types.loc[test].map(share)))
    z = (np.mean(scores) - 0.5) / (np.std(scores, ddof=1) / np.sqrt(len(scores)))
    assert abs(z) < 3.5


@given(st.integers(0, 1000), st.integers(5, 20))
@settings(deadline=None, max_examples=25)
def test_no_site_stands_on_two_sides(seed: int, n_sites: int) -> None:
    types, labels, sites = study(200, 3, 2, n_sites, seed)
    table = make_splits(types, labels, sites, n_splits=2, inner_folds=3, seed=seed, scheme="site")
    for _, part in table.groupby("split"):
        assert (part.groupby("site")["fold"].nunique() == 1).all()
        assert set(part["fold"]) == {-1, 0, 1, 2}
        assert part["patient_id"].is_unique


def test_sites_of_a_real_size_keep_the_shares() -> None:
    types, labels, sites = study(2000, 8, 2, 120, 0)
    table = make_splits(types, labels, sites, n_splits=3, inner_folds=3, seed=0, scheme="site")
    for _, part in table.groupby("split"):
        assert abs((part["role"] == "test").mean() - 0.2) < 0.01


@pytest.mark.parametrize("scheme", ["random", "site"])
def test_order_of_rows_and_columns_and_other_cohorts_change_nothing(scheme: Scheme) -> None:
    types, labels, sites = study(150, 3, 2, 12, 1)
    rng = np.random.default_rng(2)
    mixed = rng.permutation(150)
    first = Cohort("mutation", "pan_cancer", types, labels, sites)
    again = Cohort(
        "mutation",
        "pan_cancer",
        types.iloc[mixed],
        labels.iloc[mixed[::-1], ::-1],
        sites.sample(frac=1, random_state=1),
    )
    other = Cohort("survival", "T0", types, labels[["G0"]].where(types == "T0"), sites)
    one = assemble([first], inner_folds=2, seed=7, scheme=scheme)
    pd.testing.assert_frame_equal(assemble([again], inner_folds=2, seed=7, scheme=scheme), one)
    both = assemble([other, first], inner_folds=2, seed=7, scheme=scheme)
    kept = both[both["task"] == "mutation"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept.astype(str), one.astype(str))
    changed = assemble([first], inner_folds=2, seed=8, scheme=scheme)
    assert not changed["role"].equals(one["role"])


def test_table_of_cohorts() -> None:
    types, labels, sites = study(120, 3, 2, 10, 3)
    partly = labels.astype("boolean")
    partly.iloc[:30, 1] = pd.NA
    partly.iloc[:5] = pd.NA
    table = assemble(
        [Cohort("survival", "all", types, partly.rename(columns={"G0": "OS", "G1": "PFI"}), sites)],
        n_splits=3,
        inner_folds=2,
        seed=0,
    )
    assert list(table.columns) == COLUMNS
    assert table["label"].value_counts().to_dict() == {"all/OS": 3 * 115, "all/PFI": 3 * 90}
    wide = table.pivot(index=["split", "patient_id"], columns="label", values="fold").dropna()
    assert (wide["all/OS"] == wide["all/PFI"]).all()
    assert table["split"].dtype == np.int16
    assert all(isinstance(table[c].dtype, pd.CategoricalDtype) for c in ("task", "label", "patient_id", "role", "site"))
    roles = table[table["label"] == "all/OS"].pivot(index="patient_id", columns="split", values="role").astype(str)
    assert not roles[0].equals(roles[1])


def test_refusals() -> None:
    types, labels, sites = study(30, 2, 1, 3, 5)
    strata = types
    good = {"n_splits": 2, "inner_folds": 2, "seed": 0}
    for change, match in (
        ({"scheme": "time"}, "splits.scheme is 'time'"),
        ({"n_splits": 0}, "splits.n_splits is 0"),
        ({"test_fraction": 1.0}, "splits.test_fraction is 1.0"),
        ({"inner_folds": 1}, "splits.inner_folds is 1"),
    ):
        with pytest.raises(UserError, match=match):
            make_splits(strata, labels, sites, **{**good, **change})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="has 3 tissue source sites, too few"):
        make_splits(strata, labels, sites, n_splits=2, inner_folds=3, seed=0, scheme="site")
    with pytest.raises(UserError, match="has 2 patients, too few"):
        make_splits(strata.iloc[:2], labels.iloc[:2], sites, n_splits=2, inner_folds=2, seed=0)
    with pytest.raises(UserError, match="have no tissue source site"):
        make_splits(strata, labels, sites.iloc[1:], n_splits=2, inner_folds=2, seed=0, scheme="site")
    with pytest.raises(UserError, match="patients stand twice in the strata"):
        make_splits(pd.concat([strata, strata]), labels, sites, n_splits=2, inner_folds=2, seed=0)
    with pytest.raises(UserError, match="patients stand twice in the sites"):
        make_splits(strata, labels, pd.concat([sites, sites]), n_splits=2, inner_folds=2, seed=0)
    with pytest.raises(UserError, match="are not of the same patients"):
        make_splits(strata, labels.iloc[1:], sites, n_splits=2, inner_folds=2, seed=0)
    with pytest.raises(UserError, match="empty stratum"):
        make_splits(strata.where(types == "T0"), labels, sites, n_splits=2, inner_folds=2, seed=0)
    cohort = Cohort("mutation", "a", types, labels, sites)
    with pytest.raises(UserError, match="stand twice in the splits"):
        assemble([cohort, cohort], inner_folds=2, seed=0)
    with pytest.raises(UserError, match="There is no cohort to split"):
        assemble([], inner_folds=2, seed=0)
    with pytest.raises(UserError, match="has no labelled patient"):
        assemble([Cohort("mutation", "a", types, labels.iloc[:0], sites)], inner_folds=2, seed=0)
    with pytest.raises(UserError, match="Patients without a cancer type"):
        assemble([Cohort("mutation", "a", types.iloc[1:], labels, sites)], inner_folds=2, seed=0)
