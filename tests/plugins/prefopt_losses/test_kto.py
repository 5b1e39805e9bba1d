"""What makes KTO KTO: labels, a value function and one kl for the whole batch."""

import math

import pytest
import torch
from truth import REGISTRY

from prefopt.testing import Case


def labels(log_ratios, desirable, mismatched, weights=None, **hyperparameters):
    """Labelled completions with these log-ratios, and mismatched ones with those."""
    log_ratios, mismatched = (torch.tensor(values, dtype=torch.float64) for values in (log_ratios, mismatched))
    inputs = {
        "policy": log_ratios - 50,
        "reference": torch.full_like(log_ratios, -50),
        "lengths": torch.ones_like(log_ratios),
        "desirable": torch.tensor(desirable),
        "mismatched_policy": mismatched - 50,
        "mismatched_reference": torch.full_like(mismatched, -50),
    }
    if weights is not None:
        inputs["weights"] = torch.tensor(weights, dtype=torch.float64)
    return Case(REGISTRY.loss("kto", **hyperparameters), "labels", inputs)


def kl(case):
    return case.loss(case.batch()).metrics["kl"].tolist()


def test_kl_is_the_weighted_mean_of_the_mismatched_log_ratios():
    case = labels([0.0, 0.0, 0.0], [True, False, True], [6.0, 1.0, -3.0], weights=[2.0, 1.0, 1.0])
    assert kl(case) == pytest.approx([(2 * 6 + 1 - 3) / 4] * 3, rel=1e-12)


def test_kl_is_clamped_after_averaging():
    """Clamped before, [6, -4] would give 3; never clamped, [4, -6] would give -1."""
    assert kl(labels([0.0, 0.0], [True, False], [6.0, -4.0])) == pytest.approx([1, 1], rel=1e-12)
    assert kl(labels([0.0, 0.0], [True, False], [4.0, -6.0])) == [0, 0]


def test_kl_is_not_times_beta():
    case = labels([3.0, 3.0], [True, False], [3.0, 3.0], beta=0.01)
    assert kl(case) == [3, 3]
    assert case.output().losses.tolist() == pytest.approx([0.5, 0.5], rel=1e-12)


def test_kl_is_a_constant_for_the_gradient():
    case = labels([1.0, 2.0], [True, False], [3.0, 5.0])
    names = ("policy", "mismatched_policy", "mismatched_reference")
    leaves = {name: case.tensors[name].clone().requires_grad_() for name in names}
    case.output(**leaves).losses.sum().backward()
    assert leaves["policy"].grad.all()
    assert leaves["mismatched_policy"].grad is None
    assert leaves["mismatched_reference"].grad is None


@pytest.mark.parametrize("label", [True, False])
def test_batch_of_one_class_is_valid(label):
    case = labels([1.0, -2.0], [label, label], [0.0, 0.0], beta=0.5)
    sign = 1 if label else -1
    expected = [1 / (1 + math.exp(sign * 0.5 * ratio)) for ratio in (1.0, -2.0)]
    assert case.output().losses.tolist() == pytest.approx(expected, rel=1e-12)


def test_desirable_and_undesirable_losses_mirror_each_other():
    pair = labels([4.0, 4.0], [True, False], [1.0, 1.0])
    assert pair.output().losses.sum().item() == pytest.approx(1, rel=1e-12)
    chosen, rejected = pair.closed_form()["policy"].tolist()
    assert chosen == -rejected < 0


def test_each_label_has_its_own_weight():
    plain = labels([4.0, 4.0], [True, False], [1.0, 1.0]).output().losses
    weighted = (
        labels([4.0, 4.0], [True, False], [1.0, 1.0], desirable_weight=3.0, undesirable_weight=0.5).output().losses
    )
    assert (weighted / plain).tolist() == pytest.approx([3, 0.5], rel=1e-12)


def test_loss_declares_that_rows_see_each_other():
    assert REGISTRY.losses["kto"].needs.coupled
    one = labels([1.0, 1.0], [True, True], [0.0, 0.0]).output().losses[0]
    assert labels([1.0, 1.0], [True, True], [0.0, 8.0]).output().losses[0] > one


def test_reward_is_beta_times_the_log_ratio():
    case = labels([4.0, -2.0], [True, False], [1.0, 1.0], beta=0.5)
    assert case.loss(case.batch()).metrics["reward"].tolist() == [2.0, -1.0]
