"""Held against the same difference in arbitrary precision."""

import pytest
import torch
from mpmath import mp, mpf

from prefopt import difference_of_powers

EXPONENTS = [-900.0, -30.0, 0.0, 3.0, 80.0, 700.0, 709.5, 720.0, 720.0 + 1e-6, 5000.0]


@pytest.mark.parametrize("a", EXPONENTS)
@pytest.mark.parametrize("b", EXPONENTS)
def test_difference_is_the_true_one_or_the_right_infinity(a, b):
    one, other = (torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (a, b))
    found = difference_of_powers(one, other)
    with mp.workdps(60):
        true = mp.exp(mpf(a)) - mp.exp(mpf(b))
    assert found.item() == pytest.approx(float(true), rel=1e-8, abs=0)  # what cancels of exponents 1e-6 apart
    found.backward()
    assert not one.grad.isnan().any()
