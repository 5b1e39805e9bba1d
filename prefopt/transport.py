"""Optimal transport on the line: which rows of two weighted samples stand at the same quantile."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Coupling(NamedTuple):
    """Pieces of mass that move from a row of the first sample to a row of the second.

    Attributes:
        first: [S] int64 row of the first sample.
        second: [S] int64 row of the second sample.
        share: [S] what part of the first row's weight moves; the shares of each first row sum to 1.
    """

    first: Tensor
    second: Tensor
    share: Tensor


def quantile_coupling(first: Tensor, second: Tensor, weights: Tensor) -> Coupling:
    """The coupling that matches quantile with quantile: the cheapest one for every convex cost of the difference.

    With equal weights it pairs the sorted values, lowest with lowest, and has B pieces of share 1. Otherwise a row
    of weight 2 counts as the row twice. Equal values keep the order of their rows.

    Args:
        first, second: [B] values of the two samples.
        weights: [B] the weight of each row in both samples, > 0.

    Returns:
        B to 2 B - 1 pieces, in ascending order of the values. They are constants for the gradient.

    >>> quantile_coupling(torch.tensor([5.0, 1.0]), torch.tensor([2.0, 3.0]), torch.ones(2))
    Coupling(first=tensor([1, 0]), second=tensor([0, 1]), share=tensor([1., 1.]))
    """
    weights = weights.detach().double()
    first_order, second_order = first.argsort(stable=True), second.argsort(stable=True)
    # Each row owns an interval of the cumulative weight; where an interval of either sample ends, a piece ends. Of the
    # two totals one is enough: they may differ by rounding.
    first_ends, second_ends = weights[first_order].cumsum(0), weights[second_order].cumsum(0)
    ends = torch.unique(torch.cat([first_ends, second_ends[:-1]]))
    rows = first_order[torch.searchsorted(first_ends, ends)]
    partners = second_order[torch.searchsorted(second_ends[:-1], ends)]
    share = ends.diff(prepend=ends.new_zeros(1)) / weights[rows]
    return Coupling(rows, partners, share.to(first.dtype))
