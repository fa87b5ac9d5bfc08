from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from bulkprobe.errors import UserError
from bulkprobe.statistics import (
    CALIBRATED_MULTIPLE,
    average_ranks,
    bootstrap_difference,
    cohens_dz,
    critical_difference,
    holm,
    paired_test,
    probability_of_superiority,
    spearman_permutation,
    variance_factor,
)

# Integers over 1000 are differences as splits have them; close ones differ by more than rounding.
DIFFERENCES = st.lists(st.integers(-400, 400).map(lambda x: x / 1000), min_size=2, max_size=12)
P_VALUES = st.lists(st.none() | st.floats(0, 1), max_size=7)


def two_sided_p_of_3_degrees(t: float) -> float:
    x = t / math.sqrt(3)
    return 1 - 2 / math.pi * (x / (1 + x * x) + math.atan(x))


def test_a_case_computed_by_hand() -> None:
    found = paired_test([0.01, 0.03, None, 0.02, 0.04], 0.2)
    sd = math.sqrt((2 * 0.015**2 + 2 * 0.005**2) / 3)
    assert (found.n, found.n_undefined, found.reason) == (4, 1, None)
    assert found.mean == pytest.approx(0.025)
    assert found.sd == pytest.approx(sd)
    assert found.effect == pytest.approx(0.025 / sd)
    assert found.p_nadeau_bengio == pytest.approx(two_sided_p_of_3_degrees(0.025 / (sd * math.sqrt(1 / 4 + 1 / 4))))
    error = sd * math.sqrt(1 / 4 + CALIBRATED_MULTIPLE / 4)
    assert found.p_calibrated == pytest.approx(two_sided_p_of_3_degrees(0.025 / error))
    assert found.low == pytest.approx(0.025 - 3.182446305284263 * error)
    assert found.high == pytest.approx(0.025 + 3.182446305284263 * error)


def test_the_variance_factor() -> None:
    assert variance_factor(10, 0.2, 1.0) == pytest.approx(0.1 + 0.25)
    assert variance_factor(10, 0.2, 0.0) == pytest.approx(0.1)
    assert variance_factor(5, 0.5) == pytest.approx(0.2 + CALIBRATED_MULTIPLE)
    with pytest.raises(ValueError, match="n_splits is 0"):
        variance_factor(0, 0.2)


@given(DIFFERENCES)
def test_nadeau_bengio_is_the_plain_t_test_with_a_larger_error(values: list[float]) -> None:
    found = paired_test(values, 0.2)
    assume(found.effect is not None)
    plain = stats.ttest_1samp(values, 0.0)
    ratio = math.sqrt(variance_factor(len(values), 0.2, 1.0) / variance_factor(len(values), 0.2, 0.0))
    expected = 2 * stats.t.sf(abs(plain.statistic) / ratio, len(values) - 1)
    assert found.p_nadeau_bengio == pytest.approx(expected, rel=1e-6)


@given(DIFFERENCES, st.floats(0.05, 0.6))
def test_swapping_the_encoders_changes_signs_only(values: list[float], fraction: float) -> None:
    there, back = paired_test(values, fraction), paired_test([-value for value in values], fraction)
    assert there.mean is not None
    assert (back.mean, back.sd, back.p_calibrated) == (-there.mean, there.sd, there.p_calibrated)
    assert back.p_nadeau_bengio == there.p_nadeau_bengio
    if there.low is not None and there.high is not None:
        assert (back.low, back.high) == (-there.high, -there.low)
        assert back.effect == -there.effect if there.effect is not None else True


@given(DIFFERENCES, st.sampled_from([1e-3, 0.5, 100.0]))
def test_scale_changes_the_interval_but_no_p_value(values: list[float], scale: float) -> None:
    one, other = paired_test(values, 0.2), paired_test([scale * value for value in values], 0.2)
    if one.p_calibrated is None:
        assert (other.p_calibrated, other.p_nadeau_bengio, other.low) == (None, None, None)
        return
    assert other.p_calibrated == pytest.approx(one.p_calibrated, rel=1e-6)
    assert other.p_nadeau_bengio == pytest.approx(one.p_nadeau_bengio, rel=1e-6)
    if one.low is not None and one.high is not None:
        assert other.low == pytest.approx(scale * one.low, rel=1e-6, abs=1e-12)
        assert other.high == pytest.approx(scale * one.high, rel=1e-6, abs=1e-12)


@given(DIFFERENCES, st.randoms(use_true_random=False))
def test_the_order_of_splits_and_undefined_ones_change_nothing(values: list[float], random) -> None:
    mixed: list[float | None] = [*values, None, None]
    random.shuffle(mixed)
    one, other = paired_test(values, 0.2), paired_test(mixed, 0.2)
    assert other.n_undefined == 2
    assert (one.n, one.mean, one.p_nadeau_bengio, one.p_calibrated) == (
        other.n,
        other.mean,
        other.p_nadeau_bengio,
        other.p_calibrated,
    )


@given(DIFFERENCES, st.floats(0.05, 0.6))
def test_the_calibrated_test_is_the_careful_one_and_agrees_with_its_interval(
    values: list[float], fraction: float
) -> None:
    found = paired_test(values, fraction, level=0.9)
    assume(found.low is not None)
    assert found.low is not None
    assert found.high is not None
    assert found.p_nadeau_bengio is not None
    assert found.p_calibrated is not None
    assert found.p_nadeau_bengio <= found.p_calibrated
    assume(abs(found.p_calibrated - 0.1) > 1e-9)
    assert (found.low > 0 or found.high < 0) == (found.p_calibrated < 0.1)


def test_all_differences_zero_is_no_evidence() -> None:
    found = paired_test([0.0] * 10, 0.2)
    assert (found.p_nadeau_bengio, found.p_calibrated, found.mean, found.sd) == (1.0, 1.0, 0.0, 0.0)
    assert (found.effect, found.low, found.high, found.reason) == (None, None, None, "all differences are exactly 0")


@pytest.mark.parametrize("value", [0.1, -0.3, 0.1 + 1e-17])
def test_equal_differences_have_no_variance_even_with_rounding(value: float) -> None:
    found = paired_test([value, value * (1 + 1e-15), value], 0.2)
    assert (found.p_calibrated, found.p_nadeau_bengio, found.effect, found.low) == (None, None, None, None)
    assert found.mean == pytest.approx(value)
    assert found.reason is not None
    assert "no variance" in found.reason


@pytest.mark.parametrize(("values", "n", "mean"), [([], 0, None), ([None, None], 0, None), ([0.2, None], 1, 0.2)])
def test_fewer_than_two_splits_have_no_p_value(values: list[float | None], n: int, mean: float | None) -> None:
    found = paired_test(values, 0.2)
    assert (found.n, found.mean, found.sd, found.p_calibrated, found.high) == (n, mean, None, None, None)
    assert found.reason == f"a difference in {n} of {len(values)} splits; at least 2 are needed"


def test_refusals_of_the_paired_test() -> None:
    with pytest.raises(ValueError, match="1 values that are NaN or infinite; an undefined split is None"):
        paired_test([0.1, float("nan")], 0.2)
    for fraction in (0.0, 1.0, -0.2):
        with pytest.raises(ValueError, match=r"test_fraction is .*between 0 and 1"):
            paired_test([0.1, 0.2], fraction)
    with pytest.raises(ValueError, match="level is 95"):
        paired_test([0.1, 0.2], 0.2, level=95)


def test_effect_sizes_by_hand() -> None:
    assert cohens_dz([1.0, None, 3.0]) == pytest.approx(2 / math.sqrt(2))
    assert cohens_dz([0.5, 0.5]) is None
    assert cohens_dz([0.5, None]) is None
    assert probability_of_superiority([0.1, -0.1, 0.0, 0.2, None]) == pytest.approx(2.5 / 4)
    assert probability_of_superiority([None]) is None


def test_holm_by_hand() -> None:
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx([0.03, None, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([None]) == [None]


@given(P_VALUES)
def test_holm_is_closed_testing_with_bonferroni(p: list[float | None]) -> None:
    """Adjusted p of a hypothesis: the largest Bonferroni p of all sets of hypotheses that hold it."""
    known = [place for place, value in enumerate(p) if value is not None]
    adjusted = holm(p)
    for place, value in enumerate(adjusted):
        if p[place] is None:
            assert value is None
            continue
        sets = (part for size in range(1, len(known) + 1) for part in itertools.combinations(known, size))
        brute = max(min(1.0, len(part) * min(p[j] for j in part)) for part in sets if place in part)  # type: ignore[type-var]
        assert value == pytest.approx(brute, rel=1e-12)


@pytest.mark.parametrize("wrong", [-0.1, 1.5, float("nan")])
def test_holm_refuses_what_is_no_p_value(wrong: float) -> None:
    with pytest.raises(ValueError, match="must lie between 0 and 1 or be None"):
        holm([0.1, wrong])


# Demsar 2006, table 6: AUC of C4.5 with no tuning, of m, of cf, of both, on 14 data sets. In the last row but one the
# third is ranked before the fourth, although both are printed as 0.975.
DEMSAR = """
0.763 0.768 0.771 0.798
0.599 0.591 0.590 0.569
0.954 0.971 0.968 0.967
0.628 0.661 0.654 0.657
0.882 0.888 0.886 0.898
0.936 0.931 0.916 0.931
0.661 0.668 0.609 0.685
0.583 0.583 0.563 0.625
0.775 0.838 0.866 0.875
1.000 1.000 1.000 1.000
0.940 0.962 0.965 0.962
0.619 0.666 0.614 0.669
0.972 0.981 0.9751 0.975
0.957 0.978 0.946 0.970
"""


def demsar() -> pd.DataFrame:
    rows = [[float(value) for value in line.split()] for line in DEMSAR.strip().splitlines()]
    return pd.DataFrame(rows, columns=["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"])


def test_the_example_of_demsar() -> None:
    found = average_ranks(demsar(), level=0.10)
    assert found.average_ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert found.critical_difference == pytest.approx(1.12, abs=0.005)
    assert (found.n_blocks, found.n_dropped, found.reason) == (14, 0, None)
    # C4.5 and C4.5+m+cf differ at 10 %, as do C4.5 and C4.5+m; Demsar's figure 1b joins the others.
    assert found.groups == (("C4.5+m+cf", "C4.5+m", "C4.5+cf"), ("C4.5+cf", "C4.5"))
    assert average_ranks(demsar()).critical_difference == pytest.approx(1.25, abs=0.005)


@pytest.mark.parametrize(
    ("level", "quantiles"),
    [
        (0.05, [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]),
        (0.10, [1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920]),
    ],
)
def test_the_critical_values_of_demsars_table_5(level: float, quantiles: list[float]) -> None:
    for k, quantile in enumerate(quantiles, start=2):
        found = critical_difference(k, 20, level) / math.sqrt(k * (k + 1) / (6 * 20))
        assert found == pytest.approx(quantile, abs=1.5e-3)  # the table is rounded to three decimals, once or twice


@given(st.integers(3, 6), st.integers(2, 15), st.integers(0, 10_000), st.sampled_from([1, 2, 10]))
def test_friedman_agrees_with_scipy_also_under_ties(k: int, n: int, seed: int, decimals: int) -> None:
    values = np.random.default_rng(seed).random((n, k)).round(decimals)
    assume(any(len(set(row)) > 1 for row in values))
    found = average_ranks(pd.DataFrame(values).rename(columns=str))
    assert found.friedman_p == pytest.approx(stats.friedmanchisquare(*values.T).pvalue, rel=1e-9)
    assert np.mean(found.average_ranks) == pytest.approx((k + 1) / 2)


def test_two_encoders_are_the_sign_test_in_its_normal_form() -> None:
    frame = pd.DataFrame({"a": [0.9, 0.8, 0.7, 0.6, 0.9], "b": [0.8, 0.7, 0.6, 0.5, 0.95]})
    found = average_ranks(frame)
    assert found.average_ranks == pytest.approx([1.2, 1.8])
    assert found.friedman_p == pytest.approx(stats.chi2.sf((4 - 1) ** 2 / 5, 1))
    assert found.groups == (("a", "b"),)


def test_ranks_share_ties_drop_incomplete_rows_and_do_not_group_the_clearly_worse() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"bad": rng.random(40) / 10, "good": 0.9, "same": 0.9})
    frame.loc[3, "good"] = np.nan
    found = average_ranks(frame)
    assert (found.n_blocks, found.n_dropped) == (39, 1)
    assert found.average_ranks == pytest.approx([3.0, 1.5, 1.5])
    assert found.groups == (("good", "same"),)
    assert found.friedman_p is not None
    assert found.friedman_p < 1e-6


def test_blocks_that_are_all_ties_are_no_evidence() -> None:
    found = average_ranks(pd.DataFrame({"a": [0.5, 0.7], "b": [0.5, 0.7], "c": [0.5, 0.7]}))
    assert found.friedman_p == 1.0
    assert found.groups == (("a", "b", "c"),)


def test_ranks_without_enough_blocks_say_so() -> None:
    none = average_ranks(pd.DataFrame({"a": [np.nan, 1.0], "b": [1.0, np.nan]}))
    assert (none.average_ranks, none.n_blocks, none.n_dropped, none.friedman_p) == ((), 0, 2, None)
    assert none.reason == "none of 2 blocks has a score of every encoder"
    one = average_ranks(pd.DataFrame({"a": [0.4], "b": [0.6]}))
    assert (one.average_ranks, one.critical_difference, one.groups) == ((2.0, 1.0), None, ())
    assert one.reason == "one block has a score of every encoder; at least 2 are needed"


def test_refusals_of_ranks() -> None:
    with pytest.raises(UserError, match="at least two encoders; there are 1: a"):
        average_ranks(pd.DataFrame({"a": [0.5, 0.6]}))
    with pytest.raises(UserError, match="stand twice among the scores: a;"):
        average_ranks(pd.DataFrame([[0.1, 0.2], [0.3, 0.4]], columns=["a", "a"]))
    with pytest.raises(ValueError, match="1 infinite values"):
        average_ranks(pd.DataFrame({"a": [0.5, np.inf], "b": [0.1, 0.2]}))
    with pytest.raises(ValueError, match="1 names and 3 blocks"):
        critical_difference(1, 3)


def test_the_bootstrap_of_a_share_has_binomial_quantiles() -> None:
    values = np.repeat([0.0, 1.0], [60, 40])
    found = bootstrap_difference(lambda drawn: float(values[drawn].mean()), 100, n_boot=4000, seed=3)
    assert found.estimate == pytest.approx(0.4)
    assert found.low == pytest.approx(stats.binom.ppf(0.025, 100, 0.4) / 100, abs=0.011)
    assert found.high == pytest.approx(stats.binom.ppf(0.975, 100, 0.4) / 100, abs=0.011)
    assert (found.n_undefined, found.n_boot, found.level, found.reason) == (0, 4000, 0.95, None)


def test_the_bootstrap_depends_on_seed_and_patients_alone() -> None:
    ids = ["P3", "P1", "P2", "P1", "P5", "P4"]  # a patient in several splits stands once
    worth = {"P1": 0.1, "P2": 0.5, "P3": 0.2, "P4": 0.9, "P5": 0.4}

    def mean(drawn: np.ndarray) -> float:
        assert len(drawn) == 5
        return float(np.mean([worth[patient] for patient in drawn]))

    one = bootstrap_difference(mean, ids, n_boot=200, seed=1)
    assert one == bootstrap_difference(mean, np.array(sorted(set(ids))), n_boot=200, seed=1)
    assert one != bootstrap_difference(mean, ids, n_boot=200, seed=2)
    by_number = bootstrap_difference(lambda drawn: mean(np.array([f"P{i + 1}" for i in drawn])), 5, n_boot=200, seed=1)
    assert by_number == one


def test_undefined_draws_are_counted_and_too_many_leave_no_interval() -> None:
    def positives(least: int):
        def share(drawn: np.ndarray) -> float | None:
            found = int((drawn < 3).sum())
            return found / len(drawn) if found >= least else None

        return share

    few = bootstrap_difference(positives(1), 20, n_boot=500, seed=0)  # (17/20)^20 = 3.9 % have none
    assert 0 < few.n_undefined <= 25
    assert few.low is not None
    assert few.low > 0  # an undefined draw is not a draw of 0
    many = bootstrap_difference(positives(2), 20, n_boot=500, seed=0)  # 17.6 %
    assert (many.estimate, many.low, many.high) == (pytest.approx(0.15), None, None)
    assert many.reason == f"the statistic is undefined in {many.n_undefined} of 500 draws, more than 5%"
    never = bootstrap_difference(lambda drawn: None, 20, n_boot=50, seed=0)
    assert (never.estimate, never.low, never.n_undefined) == (None, None, 50)
    assert never.reason == "the statistic is undefined on all patients"


def test_refusals_of_the_bootstrap() -> None:
    with pytest.raises(UserError, match="at least 2 patients; there are 1: P1"):
        bootstrap_difference(lambda drawn: 0.0, ["P1", "P1"], seed=0)
    with pytest.raises(ValueError, match="n_boot is 0"):
        bootstrap_difference(lambda drawn: 0.0, 10, n_boot=0, seed=0)
    with pytest.raises(ValueError, match="the statistic returned nan; undefined is None"):
        bootstrap_difference(lambda drawn: float("nan"), 10, seed=0)
    with pytest.raises(ValueError, match="level is 0"):
        bootstrap_difference(lambda drawn: 0.0, 10, seed=0, level=0.0)


def test_the_bootstrap_covers_a_known_difference_of_means() -> None:
    """Normal pairs, 60 patients, true difference 0.3: the percentile interval covers a little under 90 %."""
    covered = 0
    for seed in range(400):
        values = np.random.default_rng([7, seed]).normal(0.3, 1.0, 60)
        found = bootstrap_difference(
            lambda drawn, values=values: float(values[drawn].mean()), 60, n_boot=200, seed=seed, level=0.9
        )
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.3 <= found.high
    assert stats.binom.ppf(0.001, 400, 0.87) <= covered <= stats.binom.ppf(0.999, 400, 0.9)


def test_four_pairs_in_order_by_hand() -> None:
    # 2 of 24 orders, the rising and the falling one, have |rho| = 1.
    found = spearman_permutation([1, 2, 3, 4], [10, 20, 30, 400], seed=0)
    assert (found.rho, found.n, found.n_permutations, found.exact) == (pytest.approx(1.0), 4, 24, True)
    assert found.p == pytest.approx(2 / 24)
    # One neighbouring pair swapped: sum of d^2 = 2, rho = 1 - 6 * 2 / (4 * 15) = 0.8; with 3 such swaps each way.
    swapped = spearman_permutation([1, 2, 3, 4], [20, 10, 30, 400], seed=0)
    assert swapped.rho == pytest.approx(0.8)
    assert swapped.p == pytest.approx(8 / 24)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=4, max_size=6))
def test_rho_and_exact_p_are_those_of_an_enumeration(pairs: list[tuple[int, int]]) -> None:
    x, y = ([float(pair[side]) for pair in pairs] for side in (0, 1))
    assume(len(set(x)) > 1)
    assume(len(set(y)) > 1)
    found = spearman_permutation(x, y, seed=0)
    rho = stats.spearmanr(x, y).statistic
    assert found.rho == pytest.approx(rho, abs=1e-12)
    ranks = [stats.rankdata(side) for side in (x, y)]
    orders = [np.corrcoef(ranks[0], order)[0, 1] for order in itertools.permutations(ranks[1])]
    assert found.p == pytest.approx(np.mean(np.abs(orders) >= abs(rho) - 1e-9))


def test_drawn_orders_agree_with_scipy_and_are_seeded() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=12)
    y = x + rng.normal(size=12)
    found = spearman_permutation(x.tolist(), y.tolist(), n_permutations=20_000, seed=1)
    again, other = (spearman_permutation(x.tolist(), y.tolist(), n_permutations=999, seed=s) for s in (5, 5))
    assert again == other
    assert not found.exact
    theirs = stats.permutation_test(
        (x,),
        lambda z: abs(stats.spearmanr(z, y).statistic),
        permutation_type="pairings",
        alternative="greater",
        n_resamples=2000,
        rng=np.random.default_rng(2),
    )
    assert found.p == pytest.approx(theirs.pvalue, abs=0.02)
    certain = spearman_permutation(list(range(20)), list(range(20)), n_permutations=99, seed=0)
    assert certain.p == pytest.approx(1 / 100)  # never 0


def test_a_rank_correlation_without_value_says_why() -> None:
    few = spearman_permutation([1, 2, 3], [1, 2, 3], seed=0)
    assert (few.rho, few.p, few.reason) == (None, None, "3 pairs; at least 4 are needed")
    assert spearman_permutation([1, 1, 1, 1], [1, 2, 3, 4], seed=0).reason == "one side is the same for all"
    with pytest.raises(ValueError, match="finite"):
        spearman_permutation([1, 2, 3, float("nan")], [1, 2, 3, 4], seed=0)
