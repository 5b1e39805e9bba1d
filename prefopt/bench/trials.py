"""The hyper-parameters that are tried: the same number for every method, spread evenly by a Sobol sequence."""

from __future__ import annotations

import math
from collections.abc import Mapping

from scipy.stats import qmc

from prefopt.method import Trial

# A sequence's numbers change with its dimensions, so there are always as many: the first hyper-parameter gets the same
# numbers whatever follows it.
_NUM_DIMENSIONS = 8


def draw_trials(ranges: Mapping[str, tuple[float, float]], num_trials: int) -> list[Trial]:
    """Settings within the given ranges, on a log scale where a range lies above 0; one where there is nothing to tune.

    They depend on the ranges alone, so every task, split and rerun tries the same ones. All methods try the same
    learning rates.

    Args:
        ranges: hyper-parameter -> (lowest, highest).
        num_trials: T, >= 1.

    >>> [round(trial["beta"], 3) for trial in draw_trials({"beta": (0.01, 1.0)}, 4)]
    [0.066, 0.645, 0.301, 0.025]
    """
    if not ranges:
        return [{}]
    sobol = qmc.Sobol(max(len(ranges), _NUM_DIMENSIONS), scramble=True, rng=0)
    # A whole power of 2 is balanced; of a longer one the first trials are taken.
    points = sobol.random_base2(math.ceil(math.log2(num_trials)))[:num_trials]
    bounds = ranges.values()
    return [
        dict(zip(ranges, (_between(*own, place) for own, place in zip(bounds, point, strict=False)), strict=True))
        for point in points.tolist()
    ]


def _between(low: float, high: float, place: float) -> float:
    value = low * (high / low) ** place if low > 0 else low + (high - low) * place
    # Six digits are enough to say it again.
    return float(f"{value:.6g}")
