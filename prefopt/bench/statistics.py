"""What the benchmark computes from numbers: frontiers, intervals over seeds, paired tests, ranks, power.

Pure functions on arrays; NaN stands for a value that is not there, and none comes out where none went in. A level is
the chance of being wrong, 0 < level < 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import trapezoid
from scipy.optimize import brentq
from scipy.special import gammaln
from scipy.stats import chi2, norm, t, ttest_rel

Floats = NDArray[np.float64]

LEVEL = 0.05
POWER = 0.8
NUM_RESAMPLES = 2000

_SAME_KL = 1e-12  # nats: points closer than this stand above one another
_TIE = 1e-9  # areas, which are of order 1, do not differ by less
_NUM_QUANTILES = 4000
_EXACT_UP_TO = 7  # seeds: their 1716 different resamples are fewer than NUM_RESAMPLES


@dataclass(frozen=True)
class Hull:
    """Upper concave hulls of points (KL, gain) from the origin: what mixtures with the reference can reach.

    A mixture of two policies has the mixed reward, and a KL of at most the mixed KL. A hull rises from vertex to vertex
    and is flat after the last.

    Attributes:
        kl: [..., V] of the vertices, nats, ascending from 0; hulls of fewer than V vertices repeat their last one.
        gain: [..., V] of the vertices, units of the reward, >= 0, ascending.
        point: [..., V] int, which of the points a vertex is; -1 for the origin and for repeats.
    """

    kl: Floats
    gain: Floats
    point: NDArray[np.intp]

    def at(self, kl: ArrayLike) -> Floats:
        """[..., G] the hull's value at each KL.

        Args:
            kl: [G] nats, >= 0.
        """
        width, height = np.diff(self.kl), np.diff(self.gain)
        slope = np.divide(height, width, out=np.zeros_like(width), where=width > 0)
        from_vertex = np.asarray(kl, dtype=np.float64) - self.kl[..., :-1, None]
        lines = self.gain[..., :-1, None] + slope[..., None] * from_vertex
        # A concave function is the lowest of the lines along its edges; the flat end is one of them.
        lines = np.where(width[..., None] > 0, lines, np.inf)
        lowest: Floats = np.minimum(lines.min(-2, initial=np.inf), self.gain[..., -1:])
        return lowest

    def area(self, max_kl: float) -> Floats:
        """[...] the area under the hull from 0 to `max_kl` (nats, > 0), in units of the reward times nats."""
        end = self.at([max_kl])
        gain = np.concatenate([np.where(self.kl <= max_kl, self.gain, end), end], axis=-1)
        kl = np.concatenate([np.minimum(self.kl, max_kl), np.full_like(end, max_kl)], axis=-1)
        return np.asarray(trapezoid(gain, kl, axis=-1), dtype=np.float64)


def upper_hull(kl: ArrayLike, gain: ArrayLike) -> Hull:
    """The upper concave hulls of batches of points and the origin. Points that are not finite are ignored.

    A point at KL 0 (estimates may fall below, which counts as 0) lifts the start of its hull.

    Args:
        kl: [..., P] nats.
        gain: [..., P] reward less the reference's.

    Returns:
        [...] hulls.

    >>> hull = upper_hull([1.0, 2.0, 4.0, float("nan")], [1.0, 1.2, 2.0, 9.0])
    >>> hull.kl.tolist(), hull.gain.tolist(), hull.point.tolist()
    ([0.0, 1.0, 4.0], [0.0, 1.0, 2.0], [-1, 0, 2])
    >>> hull.at([0.5, 2.5, 9.0]).tolist(), float(hull.area(2.5))
    ([0.5, 1.5, 2.0], 2.375)
    """
    kl, gain = np.broadcast_arrays(np.asarray(kl, dtype=np.float64), np.asarray(gain, dtype=np.float64))
    finite = np.isfinite(kl) & np.isfinite(gain)
    kl, gain = np.where(finite, kl, 0.0), np.where(finite, gain, -np.inf)

    lift = np.where(kl <= _SAME_KL, gain, -np.inf)
    point = _highest(lift)
    lifted = _taken(lift, point) > 0
    vertices = [(np.zeros(point.shape), np.where(lifted, _taken(lift, point), 0.0), np.where(lifted, point, -1))]
    while True:  # from each vertex on to the point of steepest ascent, until no hull of the batch rises any more
        here_kl, here_gain, _ = vertices[-1]
        right = kl - here_kl > _SAME_KL
        rise = np.where(right, gain, here_gain) - here_gain
        slope = rise / np.where(right, kl - here_kl, 1.0)
        point = _highest(slope)
        rises = _taken(slope, point) > 0
        if not rises.any():
            break
        vertices.append(
            (
                np.where(rises, _taken(kl, point), here_kl),
                np.where(rises, _taken(gain, point), here_gain),
                np.where(rises, point, -1),
            )
        )
    found_kl, found_gain, found_point = (np.concatenate(part, axis=-1) for part in zip(*vertices, strict=True))
    return Hull(found_kl, found_gain, found_point)


def _highest(values: Floats) -> NDArray[np.intp]:
    """[..., 1] the index of the largest value, the first of equals; 0 where there are no values."""
    if values.shape[-1] == 0:
        return np.zeros((*values.shape[:-1], 1), dtype=np.intp)
    return np.asarray(np.argmax(values, axis=-1, keepdims=True))


def _taken(values: Floats, index: NDArray[np.intp]) -> Floats:
    """[..., 1] the value at the index; -inf where there are no values."""
    if values.shape[-1] == 0:
        return np.full(index.shape, -np.inf)
    return np.take_along_axis(values, index, axis=-1)


def mean_interval(values: ArrayLike, level: float = LEVEL) -> Floats:
    """A bootstrap interval of the mean over seeds, widened for few seeds.

    The plain percentile bootstrap of n seeds is too narrow: it underestimates the spread by sqrt(1 - 1/n) and takes
    it for known, so that with 5 seeds its 95 % intervals hold the truth 83 % of the time. The quantiles are therefore
    taken further out, by the ratio of Student's t with n - 1 degrees of freedom to the normal. Means of resamples never
    leave the range of the values, so no bootstrap of n seeds can hold the truth in more than 1 - 2^(1 - n) of cases:
    94 % with 5, 75 % with 3. Up to 7 seeds all resamples are enumerated; beyond, 2,000 are drawn, always the same.

    Args:
        values: [..., n] finite.
        level: the share of cases in which the truth may lie outside.

    Returns:
        [..., 2] lowest and highest. Equal values give an interval of width 0; one seed says nothing about the spread,
        so its interval is (-inf, inf).

    Source:
        Hesterberg: What Teachers Should Know about the Bootstrap, 2014, arXiv 1411.5279, on the expanded percentile
        interval.

    >>> mean_interval([1.0, 2.0, 3.0, 4.0, 5.0]).round(2).tolist()
    [1.2, 4.8]
    >>> mean_interval([3.0, 3.0]).tolist(), mean_interval([3.0]).tolist()
    ([3.0, 3.0], [-inf, inf])
    """
    values = np.asarray(values, dtype=np.float64)
    num_seeds = values.shape[-1]
    if num_seeds < 2:
        return np.broadcast_to([-np.inf, np.inf], (*values.shape[:-1], 2)).copy()
    shares, chances = _resamples(num_seeds)
    means = values @ shares.T
    order = np.argsort(means, axis=-1)
    tail, sorted_chances = _tail(num_seeds, level), chances[order]
    from_below = (np.cumsum(sorted_chances, axis=-1) >= tail).argmax(-1)
    from_above = (np.cumsum(sorted_chances[..., ::-1], axis=-1) >= tail).argmax(-1)
    places = np.stack([from_below, len(chances) - 1 - from_above], axis=-1)
    ends = np.take_along_axis(means, np.take_along_axis(order, places, axis=-1), axis=-1)
    middle = values.mean(-1)  # rounding alone could leave it outside
    return np.stack([np.minimum(ends[..., 0], middle), np.maximum(ends[..., 1], middle)], axis=-1)


@lru_cache
def _tail(num_seeds: int, level: float) -> float:
    """The share of resamples beyond either end of the interval."""
    return float(norm.sf(math.sqrt(num_seeds / (num_seeds - 1)) * t.isf(level / 2, num_seeds - 1)))


@lru_cache
def _resamples(num_seeds: int) -> tuple[Floats, Floats]:
    """[R, n] the share of each seed in each resample, and [R] the chance of each resample."""
    if num_seeds > _EXACT_UP_TO:
        draws = np.random.default_rng(num_seeds).multinomial(
            num_seeds, np.full(num_seeds, 1 / num_seeds), size=NUM_RESAMPLES
        )
        return draws / num_seeds, np.full(NUM_RESAMPLES, 1 / NUM_RESAMPLES)
    chosen = combinations_with_replacement(range(num_seeds), num_seeds)
    counts = np.array([np.bincount(seeds, minlength=num_seeds) for seeds in chosen])
    log_orders = gammaln(num_seeds + 1) - gammaln(counts + 1).sum(-1)
    return counts / num_seeds, np.exp(log_orders - num_seeds * math.log(num_seeds))


def paired_test(first: ArrayLike, second: ArrayLike) -> Floats:
    """[...] two-sided p of the paired t-test that both have one mean.

    Where all differences are the same there is no spread to test against: p is 1 if they are 0, and 0 otherwise; what
    is less than 1e-9 is rounding. One seed says nothing: p is 1.

    Args:
        first, second: [..., n] finite, of order 1, paired by seed.

    >>> float(paired_test([1.0, 2.0, 4.0], [0.0, 2.0, 1.0]).round(4))
    0.2697
    >>> float(paired_test([1.0, 2.0], [1.0, 2.0])), float(paired_test([1.0, 2.0], [0.0, 1.0]))
    (1.0, 0.0)
    """
    first, second = np.broadcast_arrays(np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64))
    if first.shape[-1] < 2:
        return np.ones(first.shape[:-1])
    difference = first - second
    p = np.where(np.abs(difference).max(-1) <= _TIE, 1.0, 0.0)
    spread = np.ptp(difference, axis=-1) > _TIE
    p[spread] = ttest_rel(first[spread], second[spread], axis=-1).pvalue
    return p


def holm(p: ArrayLike) -> Floats:
    """[m] p-values corrected so that one wrong finding among all m tests is as rare as one test's level says.

    Args:
        p: [m] raw.

    Source:
        Holm: A simple sequentially rejective multiple test procedure, 1979, Scandinavian Journal of Statistics 6.

    >>> holm([0.01, 0.04, 0.03]).round(4).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return corrected


def average_ranks(values: ArrayLike) -> Floats:
    """[M] the mean rank of each method over blocks; 1 is the largest value, ties share the mean of their ranks.

    Only methods that are there on every block make up the field, so that nobody's rank depends on who is missing where.
    A method that is missing on some blocks is placed within the field on the blocks it has, and moves nobody.

    Args:
        values: [M, N] of each method on each block; NaN: missing.

    Returns:
        [M]; NaN for a method that has no block, and for all where no method is there on every block.

    >>> average_ranks([[0.9, 0.5], [0.7, 0.5], [0.8, float("nan")]]).tolist()
    [1.25, 1.75, 2.0]
    """
    values = np.round(np.asarray(values, dtype=np.float64) / _TIE)
    present = ~np.isnan(values)
    field = values[present.all(-1)]
    if len(field) == 0:
        return np.full(len(values), np.nan)
    above = (field[:, None] > values).sum(0)
    level = (field[:, None] == values).sum(0) - present.all(-1)[:, None]  # a method of the field equals itself
    ranks = np.where(present, 1.0 + above + 0.5 * level, 0.0)
    num_blocks = present.sum(-1)
    average: Floats = np.full(len(values), np.nan)
    np.divide(ranks.sum(-1), num_blocks, out=average, where=num_blocks > 0)
    return average


def detectable_difference(spread: ArrayLike, num_seeds: int, level: float = LEVEL, power: float = POWER) -> Floats:
    """[...] the smallest true mean difference that a two-sided paired t-test finds with the given chance.

    Args:
        spread: [...] standard deviation of the differences between the seeds, >= 0.
        num_seeds: pairs, >= 2.
        level: of the test.
        power: the chance of finding it, level < power < 1.

    Returns:
        [...] in the unit of the spread.

    >>> float(detectable_difference(0.01, 5).round(4)), float(detectable_difference(0.01, 20).round(4))
    (0.0168, 0.0066)
    """
    return np.asarray(spread, dtype=np.float64) * _noncentrality(num_seeds, level, power) / math.sqrt(num_seeds)


@lru_cache
def _noncentrality(num_seeds: int, level: float, power: float) -> float:
    """The mean of the t statistic's normal numerator at which the test has that power.

    The statistic is noncentral t: a normal over an independent chi. Averaged over quantiles of the chi, because
    scipy's own noncentral t gives NaN for some of the arguments that few seeds and many tests lead to.
    """
    freedom = num_seeds - 1
    critical = t.isf(level / 2, freedom)
    thresholds = critical * np.sqrt(chi2.ppf((np.arange(_NUM_QUANTILES) + 0.5) / _NUM_QUANTILES, freedom) / freedom)

    def excess(noncentrality: float) -> float:
        found = norm.sf(thresholds - noncentrality) + norm.cdf(-thresholds - noncentrality)
        return float(found.mean()) - power

    return float(brentq(excess, 0.0, thresholds[-1] + 10.0))  # so far out it is found for certain
