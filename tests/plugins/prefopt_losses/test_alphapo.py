"""What makes AlphaPO AlphaPO: SimPO's reward, bent by alpha."""

import math

import pytest
import torch

import prefopt

REGISTRY = prefopt.load_registry()


def pairs(chosen, rejected, lengths=(1, 1)):
    """Pairs with these log-probs."""
    chosen, rejected = (torch.tensor(values, dtype=torch.float64) for values in (chosen, rejected))
    return prefopt.PreferenceBatch.from_pairs(
        policy_chosen=chosen,
        policy_rejected=rejected,
        chosen_lengths=torch.full_like(chosen, lengths[0]),
        rejected_lengths=torch.full_like(rejected, lengths[1]),
    )


def losses(batch, **hyperparameters):
    return REGISTRY.loss("alphapo", **hyperparameters)(batch).losses


def slopes(batch, **hyperparameters):
    """By autograd and in closed form."""
    leaves = [batch.chosen.policy.requires_grad_(), batch.rejected.policy.requires_grad_()]
    loss = REGISTRY.loss("alphapo", **hyperparameters)
    by_hand = loss.gradient(batch)
    return torch.autograd.grad(loss(batch).losses.sum(), leaves), (by_hand.policy_chosen, by_hand.policy_rejected)


def test_margin_is_the_difference_of_inverse_powers():
    """Mean log-probs ln 1/16 and ln 1/81 have fourth roots 1/2 and 1/3."""
    batch = pairs([4 * math.log(1 / 16)], [5 * math.log(1 / 81)], (4, 5))
    margin = 2.5 * (3 - 2) / 0.25 - 0.1
    assert losses(batch).item() == pytest.approx(math.log1p(math.exp(-margin)), rel=1e-12)


def test_alpha_0_is_simpo_to_the_last_digit():
    batch = pairs([-8.0, -20.0], [-15.0, -6.0], (4, 5))
    simpo = REGISTRY.loss("simpo", beta=2.5, gamma=0.1)(batch).losses
    assert losses(batch, alpha=0.0).equal(simpo)


@pytest.mark.parametrize("alpha", [1e-320, 1e-160, 1e-100, 1e-30, 1e-17, 1e-12])
@pytest.mark.parametrize("sign", [1, -1])
def test_loss_runs_smoothly_through_alpha_0(alpha, sign):
    batch = pairs([-8.0, -20.0], [-15.0, -6.0], (4, 5))
    torch.testing.assert_close(losses(batch, alpha=sign * alpha), losses(batch, alpha=0.0), rtol=1e-11, atol=0)
    for found, limit in zip(slopes(batch, alpha=sign * alpha), slopes(batch, alpha=0.0), strict=True):
        torch.testing.assert_close(found, limit, rtol=1e-11, atol=0)


def test_alpha_weighs_unlikely_completions():
    """At equal means the margin is -gamma, and only p^-alpha tells the slopes apart."""
    batch = pairs([-1.0, -4.0], [-1.0, -4.0])
    for alpha in (0.5, -0.5):
        slope = REGISTRY.loss("alphapo", alpha=alpha).gradient(batch).policy_rejected
        assert (slope[1] / slope[0]).item() == pytest.approx(math.exp(3 * alpha), rel=1e-12)


def test_overflow_leaves_the_right_infinities_and_no_nan():
    """1 / p of a mean log-prob of -1000 is beyond float64: chosen alone, rejected alone, both tied, both apart."""
    batch = pairs([-1e3, -1.0, -1e3, -1e3, -2e3], [-1.0, -1e3, -1e3, -2e3, -1e3])
    inf = math.inf
    tie = math.log1p(math.exp(0.1))
    assert losses(batch, alpha=1.0).tolist() == [inf, 0, pytest.approx(tie, rel=1e-14), 0, inf]
    for chosen, rejected in slopes(batch, alpha=1.0):
        assert chosen.tolist() == [-inf, 0, -inf, 0, -inf]
        assert rejected.tolist() == [pytest.approx(2.5 * math.e, rel=1e-14), 0, inf, 0, inf]


@pytest.mark.parametrize(
    ("alpha", "expected"), [(0.5, (1 - math.e) / 0.5), (-0.5, (1 - 1 / math.e) / -0.5), (1e-6, -2 - 2e-6 - 4e-12 / 3)]
)
def test_reward_is_the_shaped_mean_log_prob(alpha, expected):
    metrics = REGISTRY.loss("alphapo", alpha=alpha, beta=3.0)(pairs([-8.0], [-15.0], (4, 5))).metrics
    assert metrics["chosen_reward"].item() == pytest.approx(3 * expected, rel=1e-14)
