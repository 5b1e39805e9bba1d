"""Every loss equals its paper's formula, computed apart in arbitrary precision."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_batches import CASES, examples, runs

# Where two large numbers cancel, rounding of the inputs alone moves the value by this much.
ROUNDING = {"ipo": 1e-14, "orpo": 1e-12}


@pytest.mark.parametrize("case", CASES, ids=str)
@runs(25)
@given(data=st.data())
def test_loss_equals_the_formula_of_the_paper(case, data):
    example = data.draw(examples(case))
    expected = torch.tensor([float(value) for value in example.paper_values()], dtype=torch.float64)
    torch.testing.assert_close(example.losses(), expected, rtol=1e-9, atol=ROUNDING.get(case.name, 1e-300))


@pytest.mark.parametrize("case", CASES, ids=str)
@runs(10)
@given(data=st.data())
def test_losses_are_the_sum_of_their_terms(case, data):
    output = (example := data.draw(examples(case))).loss(example.batch())
    if output.terms:
        torch.testing.assert_close(output.losses, sum(values for values, _ in output.terms.values()))
    assert all(normaliser.gt(0).all() for _, normaliser in output.terms.values())
