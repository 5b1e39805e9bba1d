"""What makes WPO WPO: each pair weighs what the current policy makes of it."""

import math

import pytest
import torch

import prefopt

REGISTRY = prefopt.load_registry()


def side(probabilities, collision):
    """One completion of tokens of these probabilities, each from a distribution whose sum of p^2 is `collision`."""
    policy = torch.tensor(probabilities, dtype=torch.float64).log().requires_grad_()
    squares = torch.full_like(policy, math.log(collision)).requires_grad_()
    return prefopt.Tokens(policy, torch.tensor([0, len(policy)]), policy.detach(), log_sum_squares=squares)


def batch(chosen, rejected, gap=0.0):
    sums = [tokens.sum(tokens.policy).detach() for tokens in (chosen, rejected)]
    return prefopt.PreferenceBatch.from_pairs(
        policy_chosen=(sums[0] + gap).requires_grad_(),
        policy_rejected=sums[1].clone().requires_grad_(),
        reference_chosen=sums[0],
        reference_rejected=sums[1],
        chosen_lengths=chosen.lengths,
        rejected_lengths=rejected.lengths,
        chosen_tokens=chosen,
        rejected_tokens=rejected,
    )


def weight(chosen, rejected, **hyperparameters):
    loss = REGISTRY.loss("wpo", **hyperparameters)
    return loss(batch(chosen, rejected)).losses.item() / math.log(2)


def test_weight_is_the_mean_probability_per_token_against_what_the_policy_would_draw():
    chosen, rejected = side([0.1, 0.4], 0.5), side([0.25], 0.5)
    # The geometric mean of 0.1 and 0.4 is 0.2.
    assert weight(chosen, rejected) == pytest.approx(0.2 / 0.5 * 0.25 / 0.5, rel=1e-12)


def test_long_completion_weighs_as_much_as_a_short_one_of_like_tokens():
    short, long = side([0.2], 0.5), side([0.2] * 50, 0.5)
    assert weight(long, long) == pytest.approx(weight(short, short), rel=1e-12)


def test_product_of_the_weights_is_clamped_and_not_its_factors():
    chosen, rejected = side([0.8], 0.2), side([0.05], 0.4)
    assert weight(chosen, rejected) == pytest.approx(4 / 8, rel=1e-12)
    assert weight(chosen, chosen) == pytest.approx(1, rel=1e-12)
    assert weight(chosen, chosen, clamp=False) == pytest.approx(16, rel=1e-12)


def test_weight_is_a_constant_for_the_gradient():
    chosen, rejected = side([0.1, 0.4], 0.5), side([0.25], 0.5)
    rows = batch(chosen, rejected, gap=3.0)
    loss = REGISTRY.loss("wpo", beta=0.5)
    loss(rows).losses.sum().backward()
    expected = -0.5 * 0.2 / (1 + math.exp(0.5 * 3))
    assert rows.chosen.policy.grad.item() == pytest.approx(expected, rel=1e-12)
    assert [tensor.grad for tokens in (chosen, rejected) for tensor in (tokens.policy, tokens.log_sum_squares)] == [
        None
    ] * 4
