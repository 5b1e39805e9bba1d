"""Functions of logarithms that stay numbers where their parts overflow."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def difference_of_powers(a: Tensor, b: Tensor) -> Tensor:
    """e^a - e^b, never infinity less infinity: where both overflow, both shrink alike and their difference grows back.

    Once grown back by more than a number can hold it is 0 or infinite, whatever the factor, so the factor may stop at
    the largest number: 0 times that is 0.

    Args:
        a, b: exponents of one shape.

    Returns:
        the difference, in their shape and dtype; infinite only where the true one is.

    >>> difference_of_powers(torch.tensor([1.0, 800.0, 800.0]), torch.tensor([0.0, 800.0, 900.0]))
    tensor([1.7183, 0.0000,   -inf])
    """
    largest = torch.finfo(a.dtype).max
    excess = (torch.minimum(a, b).detach() - (math.log(largest) - 8)).clamp(min=0)
    return ((a - excess).exp() - (b - excess).exp()) * excess.exp().clamp(max=largest)
