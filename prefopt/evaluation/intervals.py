"""Confidence intervals."""

from __future__ import annotations

from math import sqrt

_Z_95 = 1.959963984540054


def wilson(successes: float, trials: float) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share.

    Args:
        successes: how many trials succeeded, 0 <= successes <= trials; a tie counts one half.
        trials: > 0; the effective number where trials have weights.

    Source:
        Wilson: Probable inference, the law of succession, and statistical inference, 1927, JASA 22.

    >>> low, high = wilson(50, 100)
    >>> round(low, 4), round(high, 4)
    (0.4038, 0.5962)
    """
    share = successes / trials
    scale = 1 + _Z_95**2 / trials
    center = (share + _Z_95**2 / (2 * trials)) / scale
    half = _Z_95 / scale * sqrt(share * (1 - share) / trials + _Z_95**2 / (4 * trials**2))
    return max(0.0, center - half), min(1.0, center + half)
