"""Means with their standard errors."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A mean over independent rows.

    Attributes:
        mean: the estimate.
        standard_error: of the mean; None for a single row.
        num: rows it was taken over.
    """

    mean: float
    standard_error: float | None
    num: int

    def as_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {"mean": self.mean, "standard_error": self.standard_error, "num": self.num}


def mean_of(values: Tensor, weights: Tensor | None = None) -> Estimate:
    """The weighted mean of rows; its error follows from how far they scatter.

    Args:
        values: [N] one a row, N >= 1.
        weights: [N] > 0; absent: 1 each.

    >>> mean_of(torch.tensor([1.0, 2.0, 6.0]))  # doctest: +ELLIPSIS
    Estimate(mean=3.0, standard_error=1.5275..., num=3)
    """
    weights = torch.ones_like(values) if weights is None else weights
    return ratio_of(weights * values, weights)


def ratio_of(totals: Tensor, counts: Tensor) -> Estimate:
    """The sum of `totals` over the sum of `counts`: a mean over tokens, say, where the rows are what is independent.

    Args:
        totals: [N] the sum over each row's tokens.
        counts: [N] how many they are, > 0; or the row's weight.

    Source:
        Cochran: Sampling Techniques, 1977, section 6.4, without the correction for finite populations.

    >>> ratio_of(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 3.0]))
    Estimate(mean=1.5, standard_error=0.25, num=2)
    """
    totals, counts = totals.detach().double().cpu(), counts.double().cpu()
    mean, num = float(totals.sum() / counts.sum()), len(totals)
    if num == 1:
        return Estimate(mean, None, 1)
    scatter = float((totals - mean * counts).square().sum()) * num / (num - 1)
    return Estimate(mean, sqrt(scatter) / float(counts.sum()), num)


def quantiles_of(values: Tensor, weights: Tensor, shares: tuple[float, ...]) -> list[float]:
    """For each share, the smallest value at or below which at least this share of the weight lies.

    Args:
        values: [N], N >= 1.
        weights: [N] > 0.
        shares: each in (0, 1).

    >>> quantiles_of(torch.tensor([3.0, 1.0, 2.0]), torch.ones(3), (0.5, 0.9))
    [2.0, 3.0]
    """
    ordered, order = values.detach().double().cpu().sort()
    reached = weights.double().cpu()[order].cumsum(0)
    wanted = torch.tensor(shares, dtype=torch.float64) * reached[-1] * (1 - 1e-12)  # a sum may miss a share by rounding
    return [float(value) for value in ordered[torch.searchsorted(reached, wanted)]]
