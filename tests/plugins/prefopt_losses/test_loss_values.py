"""Every loss equals its paper's formula, computed apart in arbitrary precision."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from truth import BUILT_IN, VALUES, every_setting, random_cases, rounding, runs, true_values


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_loss_has_a_formula(name):
    assert name in VALUES


@every_setting
@runs(12)
@given(data=st.data())
def test_loss_equals_the_formula_of_the_paper(setting, data):
    case = data.draw(random_cases(setting))
    expected = torch.tensor([float(value) for value in true_values(case)], dtype=torch.float64)
    losses = case.output().losses
    bound = 1e-9 * expected.abs() + rounding(case, lambda case: case.output().losses)
    fine = (losses == expected) | ((losses - expected).abs() <= bound)
    assert fine.all(), f"{losses.tolist()}, but the formula gives {expected.tolist()}"
