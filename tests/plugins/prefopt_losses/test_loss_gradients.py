"""Every closed form equals the paper's, autograd's and finite differences."""

import paper
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp
from random_batches import CASES, LETTERS, NARROW, examples, runs

closed_form_of_every_loss = pytest.mark.parametrize("case", CASES, ids=str)


def assert_same(actual, expected, *, rtol, atol=None):
    assert actual.keys() == expected.keys()
    for name, gradient in actual.items():
        bound = rtol * expected[name].abs() + (1e-250 if atol is None else atol[name])
        error = (gradient - expected[name]).abs()
        assert (error <= bound).all(), f"{name}: {gradient.tolist()}, but {expected[name].tolist()} was expected"


def rounding(example):
    """What float64 loses by cancellation: in the inputs (IPO), and in autograd's 1 - s (KTO) and log(1 - p) (ORPO)."""
    if example.loss.name == "ipo":
        return dict.fromkeys(example.policies, 1e-11)
    if example.loss.name == "kto":
        return {"policy": 1e-15 * example.loss.beta * 10}
    if example.loss.name == "orpo":
        certainty = 1 / -torch.expm1(example.inputs["policy_rejected"] / example.inputs["rejected_lengths"])
        scale = 1e-14 * example.loss.lambda_
        return {
            "policy_chosen": scale / example.inputs["chosen_lengths"],
            "policy_rejected": scale * (1 + certainty) / example.inputs["rejected_lengths"],
        }
    return None


@closed_form_of_every_loss
@runs(25)
@given(data=st.data())
def test_gradient_equals_the_closed_form_of_the_paper(case, data):
    example = data.draw(examples(case))
    expected = {
        name: torch.tensor([float(value) for value in values], dtype=torch.float64)
        for name, values in example.paper_gradients().items()
    }
    atol = rounding(example) if case.name == "ipo" else None
    assert_same(example.closed_form(), expected, rtol=1e-9, atol=atol)


@closed_form_of_every_loss
@runs(25)
@given(data=st.data())
def test_gradient_equals_autograd_of_the_sum_of_losses(case, data):
    example = data.draw(examples(case))
    assert_same(example.autograd(), example.closed_form(), rtol=1e-9, atol=rounding(example))


@closed_form_of_every_loss
@runs(15)
@given(data=st.data())
def test_gradient_equals_finite_differences_of_the_losses(case, data):
    example = data.draw(examples(case, NARROW))
    expected = {}
    for name in example.policies:
        policy = example.inputs[name]
        # Four points cancel the third derivative, so that the step can stay large against rounding.
        step = 1e-3 * policy.abs() if case.name == "orpo" else torch.full_like(policy, 2e-2)
        near, far = (
            example.losses(**{name: policy + k * step}) - example.losses(**{name: policy - k * step}) for k in (1, 2)
        )
        expected[name] = (8 * near - far) / (12 * step)
    scale = max(gradient.abs().max().item() for gradient in expected.values())
    atol = dict.fromkeys(expected, 1e-9 * scale)
    assert_same(example.closed_form(), expected, rtol=1e-6, atol=atol)


@closed_form_of_every_loss
@runs(8)
@given(data=st.data())
def test_gradient_equals_differences_of_the_formula_in_arbitrary_precision(case, data):
    example = data.draw(examples(case))
    value, closed_form = paper.VALUES[case.name], example.closed_form()
    options = example.hyperparameters()
    for name in example.policies:
        for index, row in enumerate(example.rows()):
            if row[LETTERS[name]] == 0:  # a log-prob of 0 has no right-hand side
                continue
            slope = mp.diff(lambda x, row=row, key=LETTERS[name]: value(row | {key: x}, **options), row[LETTERS[name]])
            error = abs(closed_form[name][index].item() - slope)
            assert error <= 1e-6 * abs(slope) + (1e-11 if case.name == "ipo" else 1e-20)
