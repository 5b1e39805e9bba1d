"""What a loss should prove: every promise of the conformance kit, and a few values computed by hand."""

import pytest
import torch

import prefopt
from prefopt.testing import parametrize_with_checks


@parametrize_with_checks("hinge_example")
def test_promise(check):
    check()


def batch(*gaps):
    gap = torch.tensor(gaps, dtype=torch.float64)
    policy = (gap - 20).requires_grad_()
    twenty = torch.full_like(gap, -20)
    return prefopt.PreferenceBatch.from_pairs(
        policy_chosen=policy,
        policy_rejected=twenty.clone().requires_grad_(),
        reference_chosen=twenty,
        reference_rejected=twenty,
        chosen_lengths=torch.ones_like(gap),
        rejected_lengths=torch.ones_like(gap),
    )


@pytest.fixture(scope="module")
def loss():
    return prefopt.get_loss("hinge_example", beta=0.5)


def test_loss_is_the_distance_of_the_margin_from_one(loss):
    assert loss(batch(0.0, -2.0, 1.0, 2.0, 9.0)).losses.tolist() == [1, 2, 0.5, 0, 0]


def test_closed_form_equals_autograd(loss):
    pairs = batch(-400.0, -1.0, 0.0, 1.9, 2.1, 400.0)
    chosen, rejected = torch.autograd.grad(loss(pairs).losses.sum(), [pairs.chosen.policy, pairs.rejected.policy])
    gradient = loss.gradient(pairs)
    torch.testing.assert_close(gradient.policy_chosen, chosen, rtol=1e-9, atol=0)
    torch.testing.assert_close(gradient.policy_rejected, rejected, rtol=1e-9, atol=0)


def test_reward_is_beta_times_the_log_ratio(loss):
    assert loss(batch(3.0)).metrics["chosen_reward"].tolist() == [1.5]


def test_beta_out_of_range_is_refused():
    with pytest.raises(prefopt.ConfigError, match="beta = 0; it must be a number greater than 0"):
        prefopt.get_loss("hinge_example", beta=0)
