"""What makes APO-zero APO-zero: chosen up, rejected down, each for itself, most of all at the reference."""

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


def test_loss_is_a_difference_of_two_sigmoids_plus_the_offset():
    batch = pairs([2.0], [-3.0])
    expected = sigmoid(-3 / 2) - sigmoid(2 / 2)
    for offset in (0, 1):
        losses = REGISTRY.loss("apo_zero", beta=0.5, offset=offset)(batch).losses
        assert losses.item() == pytest.approx(expected + offset, rel=1e-14)


def test_offset_moves_no_gradient():
    batch = pairs([2.0, -30.0], [-3.0, 7.0])
    without, with_it = (REGISTRY.loss("apo_zero", offset=offset).gradient(batch) for offset in (0, 1))
    assert without.policy_chosen.equal(with_it.policy_chosen)
    assert without.policy_rejected.equal(with_it.policy_rejected)


def test_pull_is_strongest_at_the_reference():
    """With log-sigmoids in place of the sigmoids it would grow without end towards the wrong side."""
    slopes = REGISTRY.loss("apo_zero", beta=1.0).gradient(pairs([-8.0, 0.0, 8.0], [-8.0, 0.0, 8.0]))
    for slope in (slopes.policy_chosen, slopes.policy_rejected):
        assert slope[1].abs().item() == 0.25
        assert slope[0].item() == pytest.approx(slope[2].item(), rel=1e-12)
        assert slope[0].abs() < 1e-3


@pytest.mark.parametrize(
    ("offset", "chosen", "rejected", "expected"),
    [(0, 40.0, 45.0, math.exp(-40) - math.exp(-45)), (1, 40.0, -40.0, 2 * math.exp(-40))],
)
def test_value_is_exact_where_the_sigmoids_round_to_one(offset, chosen, rejected, expected):
    losses = REGISTRY.loss("apo_zero", beta=1.0, offset=offset)(pairs([chosen], [rejected])).losses
    assert losses.item() == pytest.approx(expected, rel=1e-14, abs=0)


def test_offset_is_a_whole_number():
    with pytest.raises(prefopt.ConfigError, match="offset"):
        REGISTRY.loss("apo_zero", offset=2)
