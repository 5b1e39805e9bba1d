"""What makes SimPO SimPO: averages, a target margin, no reference."""

import math

import pytest
import torch
from truth import REGISTRY

from prefopt.testing import Case


def pairs(chosen, rejected, lengths=(1, 1), **hyperparameters):
    inputs = {
        "policy_chosen": torch.tensor(chosen, dtype=torch.float64),
        "policy_rejected": torch.tensor(rejected, dtype=torch.float64),
        "chosen_lengths": torch.full((len(chosen),), lengths[0]),
        "rejected_lengths": torch.full((len(chosen),), lengths[1]),
    }
    return Case(REGISTRY.loss("simpo", **hyperparameters), "pairs", inputs)


def test_only_the_log_prob_per_token_counts():
    short = pairs([-2.0, -6.0], [-3.0, -3.0], (1, 3))
    long = pairs([-8.0, -24.0], [-15.0, -15.0], (4, 15))
    assert short.output().losses.tolist() == pytest.approx(long.output().losses.tolist(), rel=1e-12)


def test_gradient_is_shared_out_over_the_tokens():
    short = pairs([-2.0], [-3.0], (1, 3)).closed_form()
    long = pairs([-8.0], [-15.0], (4, 15)).closed_form()
    assert short["policy_chosen"].item() == pytest.approx(4 * long["policy_chosen"].item(), rel=1e-12)
    assert short["policy_rejected"].item() == pytest.approx(5 * long["policy_rejected"].item(), rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.6])
def test_gamma_is_taken_from_the_margin_and_not_times_beta(gamma):
    loss = pairs([-2.0], [-3.0], beta=2.5, gamma=gamma).output().losses.item()
    assert loss == pytest.approx(math.log1p(math.exp(gamma - 2.5)), rel=1e-12)


def test_loss_is_ln_2_where_the_margin_meets_its_target():
    assert pairs([-2.0], [-3.0], beta=2.0, gamma=2.0).output().losses.item() == pytest.approx(math.log(2), rel=1e-15)


def test_loss_stays_exact_where_softplus_becomes_a_line():
    """torch's softplus is the identity beyond 20, which is off by 1e-10 in value and 2e-9 in slope."""
    margins = [-21.0, -20.5, -20.1, 20.1, 20.5, 21.0]
    case = pairs([m - 64 for m in margins], [-64.0] * len(margins), beta=1.0, gamma=0.0)
    expected = [math.log1p(math.exp(-abs(m))) + max(-m, 0.0) for m in margins]
    assert case.output().losses.tolist() == pytest.approx(expected, rel=1e-13)
    slopes = [-math.exp(-m) / (1 + math.exp(-m)) for m in margins]
    assert case.autograd()["policy_chosen"].tolist() == pytest.approx(slopes, rel=1e-13)


def test_reward_is_beta_times_the_mean_log_prob():
    case = pairs([-8.0], [-15.0], (4, 15), beta=3.0)
    metrics = case.loss(case.batch()).metrics
    assert (metrics["chosen_reward"].item(), metrics["rejected_reward"].item()) == (-6.0, -3.0)
