import doctest

import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.spatial import ConvexHull
from scipy.stats import bootstrap, nct, rankdata, t, ttest_rel

from prefopt.bench import estimate, statistics
from prefopt.bench.statistics import (
    average_ranks,
    detectable_difference,
    holm,
    mean_interval,
    paired_test,
    upper_hull,
)

MAX_KL = 2.0


@pytest.mark.parametrize("module", [estimate, statistics])
def test_examples_print_what_they_claim(module):
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


def points(seed, num_points=12):
    """Random (KL, gain), some of them beyond MAX_KL and some worse than the reference."""
    draws = np.random.default_rng(seed)
    return draws.uniform(0, 3, num_points), draws.normal(0.5, 1.0, num_points)


# The hull ------------------------------------------------------------------------------------------------------------


def highest_chord(kl, gain, at):
    """The largest value at one KL of all mixtures of two points, the origin and the flat end among them."""
    xs = np.concatenate([[0.0], kl, [100.0]])
    ys = np.concatenate([[0.0], gain, [max(0.0, *gain)]])
    best = -np.inf
    for x0, y0 in zip(xs, ys, strict=True):
        for x1, y1 in zip(xs, ys, strict=True):
            if x0 < x1 and x0 <= at <= x1:
                best = max(best, y0 + (y1 - y0) * (at - x0) / (x1 - x0))
    return best


@pytest.mark.parametrize("seed", range(8))
def test_hull_at_a_kl_is_the_highest_of_all_chords(seed):
    kl, gain = points(seed)
    grid = np.linspace(0, 3.5, 29)
    expected = [highest_chord(kl, gain, at) for at in grid]
    np.testing.assert_allclose(upper_hull(kl, gain).at(grid), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_area_is_that_of_scipys_convex_hull_with_the_axis_and_the_flat_end(seed):
    kl, gain = points(seed)
    gain = np.maximum(gain, 0.0)
    outline = np.concatenate(
        [np.stack([kl, gain], 1), [[0.0, 0.0], [3.5, 0.0], [3.5, gain.max()]]],
    )
    np.testing.assert_allclose(upper_hull(kl, gain).area(3.5), ConvexHull(outline).volume, rtol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_area_is_cut_at_the_largest_kl(seed):
    hull = upper_hull(*points(seed))
    fine = np.linspace(0, MAX_KL, 200_001)
    np.testing.assert_allclose(hull.area(MAX_KL), trapezoid(hull.at(fine), fine), rtol=1e-8)


def test_point_beyond_the_range_contributes_the_line_to_it():
    assert upper_hull([4.0], [2.0]).area(2.0) == pytest.approx(0.5 * 2.0 * 1.0)


def test_hull_is_flat_after_its_best_and_never_below_the_reference():
    hull = upper_hull([1.0, 2.0], [1.0, 0.2])
    assert hull.at([1.0, 1.5, 3.0]).tolist() == [1.0, 1.0, 1.0]
    assert upper_hull([1.0, 2.0], [-1.0, -0.2]).area(MAX_KL) == 0.0
    assert upper_hull([], []).area(MAX_KL) == 0.0


def test_points_that_are_not_finite_change_nothing():
    kl, gain = points(0)
    more_kl = np.concatenate([[np.nan, 0.5, np.inf, 0.1], kl])
    more_gain = np.concatenate([[9.0, np.nan, 9.0, np.inf], gain])
    assert upper_hull(more_kl, more_gain).area(MAX_KL) == upper_hull(kl, gain).area(MAX_KL)
    assert upper_hull([np.nan], [np.nan]).area(MAX_KL) == 0.0


def test_point_at_kl_zero_lifts_the_start():
    hull = upper_hull([-1e-9, 0.0, 1.0], [0.3, 0.2, 0.5])
    assert hull.gain.tolist() == [0.3, 0.5]
    assert hull.point.tolist() == [0, 2]


def test_batch_of_hulls_is_hull_by_hull():
    kl, gain = (np.array(part).reshape(2, 4, 12) for part in zip(*map(points, range(8)), strict=True))
    kl[0, 1, 3] = np.nan
    together = upper_hull(kl, gain)
    for place in np.ndindex(2, 4):
        alone = upper_hull(kl[place], gain[place])
        assert together.area(MAX_KL)[place] == pytest.approx(float(alone.area(MAX_KL)), rel=1e-14)
        assert together.at([0.3, 1.7])[place] == pytest.approx(alone.at([0.3, 1.7]), rel=1e-14)
        assert [p for p in together.point[place] if p >= 0] == [p for p in alone.point if p >= 0]


# Intervals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_seeds", [4, 5, 12])
def test_interval_is_scipys_percentile_bootstrap_at_the_widened_level(num_seeds):
    values = np.random.default_rng(3).normal(size=num_seeds)
    level = 2 * statistics._tail(num_seeds, 0.2)
    expected = bootstrap(
        (values,), np.mean, confidence_level=1 - level, n_resamples=100_000, batch=10_000, method="percentile", rng=1
    ).confidence_interval
    assert mean_interval(values, 0.2) == pytest.approx([expected.low, expected.high], abs=0.06)


def test_interval_of_five_seeds_holds_the_truth_about_as_often_as_five_seeds_can():
    values = np.random.default_rng(0).normal(size=(4000, 5))
    low, high = mean_interval(values).T
    held = ((low <= 0) & (high >= 0)).mean()
    assert 0.90 <= held <= 0.9375 + 0.01  # the plain percentile bootstrap holds it in 0.83


def test_interval_of_many_seeds_is_students():
    values = np.random.default_rng(0).normal(size=40)
    half = t.isf(0.025, 39) * values.std(ddof=1) / np.sqrt(40)
    assert mean_interval(values) == pytest.approx([values.mean() - half, values.mean() + half], abs=0.08)


@pytest.mark.parametrize("num_seeds", [2, 3, 7, 8])
def test_resamples_are_all_there_are_or_as_many_as_were_asked_for(num_seeds):
    shares, chances = statistics._resamples(num_seeds)
    assert chances.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(shares.sum(-1), 1.0)
    np.testing.assert_allclose(chances @ shares, 1 / num_seeds, atol=0.01)


def test_interval_of_constant_values_has_no_width_and_of_one_seed_no_end():
    assert mean_interval([0.3] * 5) == pytest.approx([0.3, 0.3])
    assert mean_interval([[0.3], [0.4]]).tolist() == [[-np.inf, np.inf]] * 2
    assert estimate.Estimate.of([0.3]).interval is None


def test_interval_holds_the_mean_and_is_the_same_at_every_call():
    values = np.random.default_rng(1).normal(size=(50, 9))
    first, again = mean_interval(values), mean_interval(values[::-1])[::-1]
    assert (first[:, 0] <= values.mean(-1)).all()
    assert (first[:, 1] >= values.mean(-1)).all()
    np.testing.assert_array_equal(first, again)


# Tests and ranks -----------------------------------------------------------------------------------------------------


def test_paired_test_is_scipys_and_handles_what_scipy_warns_about():
    draws = np.random.default_rng(0)
    first, second = draws.normal(size=(2, 3, 5))
    first[1], second[1] = second[1].copy(), second[1]  # no difference at all
    first[2] = second[2] + 0.25  # the same difference everywhere
    assert paired_test(first, second) == pytest.approx([ttest_rel(first[0], second[0]).pvalue, 1.0, 0.0])
    assert paired_test([[0.3], [0.4]], [[0.1], [0.4]]).tolist() == [1.0, 1.0]


def test_rounding_is_no_difference():
    values = np.array([0.1, 0.2, 0.3])
    assert paired_test(values + 1e-13, values) == 1.0
    assert average_ranks([values, values + 1e-13]).tolist() == [1.5, 1.5]


def test_holm_on_an_example_worked_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04; the last may not fall below 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


def test_holm_finds_anything_among_true_nulls_no_more_often_than_one_test():
    p = np.random.default_rng(0).uniform(size=(4000, 10))
    assert np.mean([holm(own).min() < 0.05 for own in p]) == pytest.approx(0.05, abs=0.012)
    assert (p.min(1) < 0.05).mean() > 0.35


def test_average_ranks_of_complete_methods_are_scipys():
    values = np.random.default_rng(0).integers(0, 4, size=(6, 30)) / 4
    assert average_ranks(values) == pytest.approx(rankdata(-values, axis=0).mean(1))


def test_method_that_is_missing_on_a_block_is_placed_and_moves_nobody():
    complete = np.array([[0.9, 0.2, 0.5], [0.5, 0.4, 0.5]])
    partial = np.array([[np.nan, 0.3, 0.5], [np.nan, np.nan, np.nan]])
    ranks = average_ranks(np.concatenate([complete, partial]))
    assert ranks[:2] == pytest.approx(average_ranks(complete))
    assert ranks[2] == pytest.approx((2 + 2) / 2)  # between the two; level with both, so second of three
    assert np.isnan(ranks[3])
    assert np.isnan(average_ranks(partial)).all()


# Power ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_seeds", "level"), [(3, 0.05), (5, 0.05), (5, 0.005), (12, 0.05)])
def test_detectable_difference_is_found_in_four_of_five_simulated_experiments(num_seeds, level):
    spread = 0.02
    difference = float(detectable_difference(spread, num_seeds, level))
    draws = np.random.default_rng(0).normal(difference, spread, size=(20_000, num_seeds))
    assert (paired_test(draws, 0.0) < level).mean() == pytest.approx(0.8, abs=0.015)


@pytest.mark.parametrize("num_seeds", [3, 5, 10, 20])
def test_detectable_difference_is_that_of_scipys_noncentral_t_where_that_is_a_number(num_seeds):
    shift = float(detectable_difference(1.0, num_seeds)) * np.sqrt(num_seeds)
    critical = t.isf(0.025, num_seeds - 1)
    found = nct.sf(critical, num_seeds - 1, shift) + nct.cdf(-critical, num_seeds - 1, shift)
    assert found == pytest.approx(0.8, abs=1e-4)


def test_detectable_difference_is_finite_for_two_seeds_and_many_tests():
    assert np.isfinite(detectable_difference([0.01, 0.0], 2, 0.05 / 1000)).all()
