"""What makes DPO DPO."""

import math

import pytest
import torch
from truth import REGISTRY

from prefopt.testing import Case

DOUBLE = torch.float64


def pairs(gaps, beta=0.1, reference=-30.0):
    """Pairs whose log-ratio gap is `gaps`, all of it on the chosen side."""
    gaps = torch.tensor(gaps, dtype=DOUBLE)
    inputs = {
        "policy_chosen": reference + gaps,
        "policy_rejected": torch.full_like(gaps, reference),
        "reference_chosen": torch.full_like(gaps, reference),
        "reference_rejected": torch.full_like(gaps, reference),
        "chosen_lengths": torch.ones_like(gaps),
        "rejected_lengths": torch.ones_like(gaps),
    }
    return Case(REGISTRY.loss("dpo", beta=beta), "pairs", inputs)


@pytest.mark.parametrize("beta", [0.01, 0.1, 5.0])
def test_loss_is_ln_2_and_rewards_are_0_where_the_policy_is_the_reference(beta):
    case = pairs([0.0, 0.0], beta)
    output = case.loss(case.batch())
    assert output.losses.tolist() == pytest.approx([math.log(2)] * 2, rel=1e-15)
    assert output.metrics["chosen_reward"].tolist() == output.metrics["rejected_reward"].tolist() == [0.0, 0.0]
    assert case.closed_form()["policy_chosen"].tolist() == pytest.approx([-beta / 2] * 2, rel=1e-15)


def test_rewards_are_beta_times_the_log_ratio():
    output = (case := pairs([4.0, -2.0], beta=0.5)).loss(case.batch())
    assert output.metrics["chosen_reward"].tolist() == [2.0, -1.0]


def test_swapping_the_sides_adds_the_margin():
    case = pairs([7.0, -3.0], beta=0.5)
    swapped = {
        f"{kind}_{side}": case.tensors[f"{kind}_{other}"]
        for kind in ("policy", "reference")
        for side, other in [("chosen", "rejected"), ("rejected", "chosen")]
    }
    difference = case.output(**swapped).losses - case.output().losses
    assert difference.tolist() == pytest.approx([3.5, -1.5], rel=1e-12)


def test_what_both_sides_share_cancels():
    case = pairs([2.0, -1.0])
    shifted = {name: case.tensors[name] + 5 for name in ("policy_chosen", "policy_rejected")}
    assert case.output(**shifted).losses.tolist() == pytest.approx(case.output().losses.tolist(), rel=1e-12)
    gradient = case.closed_form()
    assert gradient["policy_chosen"].equal(-gradient["policy_rejected"])


def test_lengths_are_not_read():
    case = pairs([2.0, -1.0])
    longer = {"chosen_lengths": torch.tensor([9, 2]), "rejected_lengths": torch.tensor([3, 4])}
    assert case.output(**longer).losses.equal(case.output().losses)


def test_loss_stays_exact_where_softplus_becomes_a_line():
    """torch's softplus is the identity beyond 20, which is off by 1e-10 in value and 2e-9 in slope."""
    margins = [-40.0, -21.0, -20.5, -20.1, -19.9, 19.9, 20.1, 20.5, 21.0, 40.0]
    case = pairs(margins, beta=1.0, reference=-64.0)
    expected = [math.log1p(math.exp(-abs(m))) + max(-m, 0.0) for m in margins]
    assert case.output().losses.tolist() == pytest.approx(expected, rel=1e-13)
    slopes = [-math.exp(-m) / (1 + math.exp(-m)) for m in margins]
    assert case.autograd()["policy_chosen"].tolist() == pytest.approx(slopes, rel=1e-13)
