"""What makes Cal-DPO Cal-DPO: a likelihood without beta, and a target for each log-ratio."""

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


def test_squares_vanish_where_both_log_ratios_meet_their_targets():
    losses = REGISTRY.loss("cal_dpo", beta=0.25)(pairs([2.0], [-2.0])).losses
    assert losses.item() == pytest.approx(math.log1p(math.exp(-4)), rel=1e-13)


def test_beta_reaches_the_targets_alone():
    """With beta in the likelihood too, the loss without squares would change with it."""
    batch = pairs([2.0], [-1.0])
    narrow, wide = (
        REGISTRY.loss("cal_dpo", beta=beta, calibration_weight=0.0)(batch).losses.item() for beta in (0.01, 1.0)
    )
    assert narrow == wide == pytest.approx(math.log1p(math.exp(-3)), rel=1e-13)


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_calibration_weight_multiplies_both_squares(weight):
    losses = REGISTRY.loss("cal_dpo", beta=0.1, calibration_weight=weight)(pairs([6.0], [-3.0])).losses
    assert losses.item() == pytest.approx(math.log1p(math.exp(-9)) + weight * (1 + 4), rel=1e-14)


def test_chosen_log_ratio_beyond_its_target_is_pulled_back():
    gradient = REGISTRY.loss("cal_dpo", beta=0.1).gradient(pairs([40.0], [-40.0]))
    assert gradient.policy_chosen.item() == pytest.approx(70, rel=1e-12)
    assert gradient.policy_rejected.item() == pytest.approx(-70, rel=1e-12)
