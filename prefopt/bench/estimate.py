"""A mean over seeds with what is known of its error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from prefopt.bench.statistics import mean_interval


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: over the values.
        interval: 95 % bootstrap interval of the mean over seeds; None: one seed says nothing about it.
        values: [S] of each seed.
    """

    mean: float
    interval: tuple[float, float] | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: ArrayLike) -> Estimate:
        """The estimate from the values [S] of the seeds, S >= 1, finite.

        >>> Estimate.of([0.5, 0.7])
        Estimate(mean=0.6, interval=(0.5, 0.7), values=(0.5, 0.7))
        """
        found = np.asarray(values, dtype=np.float64)
        low, high = mean_interval(found).tolist()
        return cls(float(found.mean()), (low, high) if len(found) > 1 else None, tuple(found.tolist()))
