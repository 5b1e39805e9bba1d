"""What makes NCA NCA: an anchor for each side, and for the chosen one a point of rest."""

import math

import pytest
import torch

import prefopt

REGISTRY = prefopt.load_registry()


def pairs(chosen, rejected):
    """Pairs with these log-ratios."""
    chosen, rejected = (torch.tensor(values, dtype=torch.float64) for values in (chosen, rejected))
    return prefopt.PreferenceBatch.from_pairs(
        policy_chosen=chosen - 50,
        policy_rejected=rejected - 60,
        reference_chosen=torch.full_like(chosen, -50),
        reference_rejected=torch.full_like(rejected, -60),
        chosen_lengths=torch.full_like(chosen, 5),
        rejected_lengths=torch.full_like(rejected, 4),
    )


def test_loss_is_two_ln_2_where_the_policy_equals_the_reference():
    losses = REGISTRY.loss("nca_pair")(pairs([0.0], [0.0])).losses
    assert losses.item() == pytest.approx(2 * math.log(2), rel=1e-15)


def test_loss_is_the_sum_of_three_cross_entropies():
    losses = REGISTRY.loss("nca_pair", beta=0.5)(pairs([2.0], [-4.0])).losses
    expected = math.log1p(math.exp(-1)) + math.log1p(math.exp(1)) / 2 + math.log1p(math.exp(-2)) / 2
    assert losses.item() == pytest.approx(expected, rel=1e-14)


def test_chosen_reward_is_pulled_to_ln_2_from_both_sides():
    beta = 0.01
    rest = math.log(2) / beta
    slopes = REGISTRY.loss("nca_pair", beta=beta).gradient(pairs([rest - 1, rest, rest + 1], [0.0] * 3)).policy_chosen
    assert slopes[0] < 0 < slopes[2]
    assert slopes[1].item() == pytest.approx(0, abs=1e-16)


def test_neither_side_moves_the_slope_of_the_other():
    near, far = (REGISTRY.loss("nca_pair", beta=1.0).gradient(pairs([1.0], [r])).policy_chosen for r in (0.0, 30.0))
    assert near.equal(far)
