"""What makes APO-down APO-down: both sides go down, the rejected one further."""

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


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_loss_sets_the_chosen_reward_against_the_margin():
    batch = pairs([2.0], [-3.0])
    expected = sigmoid(2 / 2) - sigmoid(5 / 2)
    for offset in (0, 1):
        losses = REGISTRY.loss("apo_down", beta=0.5, offset=offset)(batch).losses
        assert losses.item() == pytest.approx(expected + offset, rel=1e-14)


def test_only_the_rejected_completion_moves_at_the_reference():
    gradient = REGISTRY.loss("apo_down", beta=0.1).gradient(pairs([0.0], [0.0]))
    assert gradient.policy_chosen.item() == 0
    assert gradient.policy_rejected.item() == pytest.approx(0.1 / 4, rel=1e-14)


def test_chosen_completion_is_pushed_down_once_the_margin_is_wide():
    gradient = REGISTRY.loss("apo_down", beta=0.1).gradient(pairs([0.0], [-200.0]))
    assert gradient.policy_chosen.item() == pytest.approx(0.1 / 4, rel=1e-6)
    assert 0 < gradient.policy_rejected.item() < 1e-9


@pytest.mark.parametrize(
    ("offset", "chosen", "rejected", "expected"),
    [(0, 45.0, 5.0, math.exp(-40) - math.exp(-45)), (1, -40.0, -80.0, 2 * math.exp(-40))],
)
def test_value_is_exact_where_the_sigmoids_round_to_one(offset, chosen, rejected, expected):
    losses = REGISTRY.loss("apo_down", beta=1.0, offset=offset)(pairs([chosen], [rejected])).losses
    assert losses.item() == pytest.approx(expected, rel=1e-14, abs=0)
