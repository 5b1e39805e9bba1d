"""What makes IPO IPO: a target for the gap, on sums or on averages."""

import pytest
import torch
from truth import REGISTRY

from prefopt.testing import Case


def pairs(gaps, tau=0.1, length_normalized=False, lengths=(1, 1)):
    """Pairs whose log-ratio gap is `gaps`, half of it on each side."""
    gaps = torch.tensor(gaps, dtype=torch.float64)
    inputs = {
        "policy_chosen": gaps / 2 - 30,
        "policy_rejected": -gaps / 2 - 30,
        "reference_chosen": torch.full_like(gaps, -30),
        "reference_rejected": torch.full_like(gaps, -30),
        "chosen_lengths": torch.full_like(gaps, lengths[0]),
        "rejected_lengths": torch.full_like(gaps, lengths[1]),
    }
    return Case(REGISTRY.loss("ipo", tau=tau, length_normalized=length_normalized), "pairs", inputs)


@pytest.mark.parametrize("tau", [0.05, 0.5, 2.0])
def test_loss_is_least_where_the_gap_is_one_over_two_tau(tau):
    target = 1 / (2 * tau)
    case = pairs([target, target - 1, target + 1, target - 3, target + 3], tau)
    assert case.output().losses.tolist() == pytest.approx([0, 1, 1, 9, 9], abs=1e-12)


def test_gradient_turns_round_once_the_gap_exceeds_its_target():
    gradient = pairs([4.0, 5.0, 6.0], tau=0.1).closed_form()
    assert gradient["policy_chosen"].tolist() == pytest.approx([-2, 0, 2], abs=1e-12)
    assert gradient["policy_rejected"].tolist() == pytest.approx([2, 0, -2], abs=1e-12)


def test_sums_are_the_default_and_read_no_lengths():
    assert REGISTRY.loss("ipo").length_normalized is False
    assert pairs([4.0], lengths=(3, 9)).output().losses.equal(pairs([4.0]).output().losses)


def test_averages_equal_sums_at_length_one():
    assert pairs([4.0], length_normalized=True).output().losses.equal(pairs([4.0]).output().losses)


def test_averages_divide_each_side_by_its_own_length():
    case = pairs([12.0], tau=0.5, length_normalized=True, lengths=(2, 3))
    assert case.output().losses.tolist() == pytest.approx([(6 / 2 + 6 / 3 - 1) ** 2], rel=1e-12)
    gradient = case.closed_form()
    assert gradient["policy_chosen"].tolist() == pytest.approx([2 * 4 / 2], rel=1e-12)
    assert gradient["policy_rejected"].tolist() == pytest.approx([-2 * 4 / 3], rel=1e-12)


def test_reward_is_tau_times_the_log_ratio_the_loss_compares():
    case = pairs([12.0], tau=0.5, lengths=(2, 3))
    assert case.loss.reward(case.batch().chosen).tolist() == [3.0]
    normalized = pairs([12.0], tau=0.5, length_normalized=True, lengths=(2, 3))
    assert normalized.loss.reward(normalized.batch().chosen).tolist() == [1.5]
