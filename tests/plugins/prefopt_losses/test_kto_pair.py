"""What makes KTO-pair what it is: each side of the pairs is seen from the mean of the other side."""

import math

import pytest
import torch

import prefopt

REGISTRY = prefopt.load_registry()


def pairs(chosen, rejected, **others):
    """Pairs with these log-ratios."""
    chosen, rejected = torch.tensor(chosen, dtype=torch.float64), torch.tensor(rejected, dtype=torch.float64)
    reference, lengths = torch.full_like(chosen, -50), torch.ones_like(chosen)
    return prefopt.PreferenceBatch.from_pairs(
        policy_chosen=chosen - 50,
        policy_rejected=rejected - 50,
        reference_chosen=reference,
        reference_rejected=reference,
        chosen_lengths=lengths,
        rejected_lengths=lengths,
        **others,
    )


def s(x):
    return 1 / (1 + math.exp(-x))


def test_each_side_uses_the_mean_of_the_other():
    losses = REGISTRY.loss("kto_pair", beta=0.5)(pairs([4.0, 2.0], [1.0, 3.0])).losses
    expected = [s(-0.5 * (4 - 2)) + s(0.5 * (1 - 3)), s(-0.5 * (2 - 2)) + s(0.5 * (3 - 3))]
    assert losses.tolist() == pytest.approx(expected, rel=1e-12)


def test_mean_is_weighted_and_clamped_after_averaging():
    loss = REGISTRY.loss("kto_pair")
    metrics = loss(pairs([5.0, -1.0], [-5.0, 1.0], weights=torch.tensor([1.0, 3.0]))).metrics
    assert metrics["chosen_kl"].tolist() == [0.5, 0.5]
    assert metrics["rejected_kl"].tolist() == [0, 0]


def test_gradient_flows_through_the_means_where_asked():
    """A lone pair with both means above 0 then has 2 s(-beta gap): twice the gradient."""
    batch, slope = pairs([3.0], [1.0]), 0.5 * s(1) * s(-1)
    detached = REGISTRY.loss("kto_pair", beta=0.5).gradient(batch)
    attached = REGISTRY.loss("kto_pair", beta=0.5, detach_kl=False).gradient(batch)
    assert [detached.policy_chosen.item(), detached.policy_rejected.item()] == pytest.approx([-slope, slope])
    assert [attached.policy_chosen.item(), attached.policy_rejected.item()] == pytest.approx([-2 * slope, 2 * slope])


def test_clamped_mean_passes_no_gradient():
    """Below 0, and at 0, where the policy equals the reference."""
    for batch in (pairs([-3.0], [-1.0]), pairs([0.0], [0.0])):
        chosen = batch.chosen.policy.requires_grad_()
        attached, detached = (REGISTRY.loss("kto_pair", detach_kl=detach) for detach in (False, True))
        (slope,) = torch.autograd.grad(attached(batch).losses.sum(), chosen)
        assert slope.tolist() == pytest.approx(detached.gradient(batch).policy_chosen.tolist(), rel=1e-12)
        assert attached.gradient(batch).policy_chosen.equal(detached.gradient(batch).policy_chosen)
