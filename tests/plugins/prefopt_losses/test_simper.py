"""What makes SimPER SimPER: inverse perplexities, nothing to tune."""

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


def test_loss_is_the_difference_of_two_inverse_perplexities():
    """Means per token of ln 1/2 and ln 1/8."""
    losses = REGISTRY.loss("simper")(pairs([4 * math.log(1 / 2)], [5 * math.log(1 / 8)], (4, 5))).losses
    assert losses.item() == pytest.approx(1 / 8 - 1 / 2, rel=1e-14)


def test_loss_lies_between_minus_one_and_one():
    losses = REGISTRY.loss("simper")(pairs([0.0, -1e4, 0.0], [-1e4, 0.0, 0.0])).losses
    assert losses.tolist() == [-1, 1, 0]


def test_slope_of_a_side_is_its_own_inverse_perplexity_per_token():
    gradient = REGISTRY.loss("simper").gradient(pairs([4 * math.log(1 / 2)], [5 * math.log(1 / 8)], (4, 5)))
    assert gradient.policy_chosen.item() == pytest.approx(-1 / 2 / 4, rel=1e-14)
    assert gradient.policy_rejected.item() == pytest.approx(1 / 8 / 5, rel=1e-14)


def test_there_is_nothing_to_set():
    with pytest.raises(prefopt.ConfigError, match="has no field 'beta'; it has: none"):
        REGISTRY.loss("simper", beta=0.1)
