"""What makes InfoNCA InfoNCA: scores become a distribution, and the rewards' softmax is fitted to it."""

import pytest
import torch

import prefopt

REGISTRY = prefopt.load_registry()
INF = float("inf")


def rankings(log_ratios, scores, lengths=None):
    log_ratios, scores = torch.tensor(log_ratios, dtype=torch.float64), torch.tensor(scores, dtype=torch.float64)
    lengths = torch.ones_like(log_ratios, dtype=torch.long) if lengths is None else torch.tensor(lengths)
    reference = torch.full_like(log_ratios, -50)
    return prefopt.PreferenceBatch.from_rankings(
        policy=log_ratios - 50, reference=reference, lengths=lengths, scores=scores
    )


def test_rewards_equal_to_the_tempered_scores_are_the_optimum():
    """There the loss is the entropy of the target, and every gradient vanishes."""
    loss = REGISTRY.loss("infonca_list", beta=0.5, alpha=2.0)
    batch = rankings([[4.0, 1.0, -2.0]], [[4.0, 1.0, -2.0]])
    target = (torch.tensor([4.0, 1.0, -2.0], dtype=torch.float64) / 2).softmax(0)
    assert loss(batch).losses.item() == pytest.approx(-(target * target.log()).sum().item(), rel=1e-12)
    assert loss.gradient(batch).policy.abs().max() < 1e-15


def test_only_differences_of_rewards_count():
    loss, scores = REGISTRY.loss("infonca_list", beta=0.5), [[3.0, 2.5, 0.0]]
    shifted = loss(rankings([[11.0, 8.0, 9.0]], scores)).losses.item()
    assert loss(rankings([[1.0, -2.0, -1.0]], scores)).losses.item() == pytest.approx(shifted, rel=1e-12)


def test_alpha_sharpens_the_target():
    """A hot target is uniform, a cold one is the best completion alone."""
    batch = rankings([[1.0, -2.0, -1.0]], [[3.0, 2.5, 0.0]])
    share = torch.tensor([1.0, -2.0, -1.0], dtype=torch.float64).log_softmax(0)
    hot, cold = (REGISTRY.loss("infonca_list", beta=1.0, alpha=alpha)(batch).losses.item() for alpha in (1e9, 1e-3))
    assert hot == pytest.approx(-share.mean().item(), rel=1e-8)
    assert cold == pytest.approx(-share[0].item(), rel=1e-12)


def test_absent_slot_does_not_count():
    loss = REGISTRY.loss("infonca_list", beta=0.5)
    whole = rankings([[1.0, INF, -2.0]], [[2.0, 9.0, 1.0]], [[3, 0, 4]])
    assert loss(whole).losses.equal(loss(rankings([[1.0, -2.0]], [[2.0, 1.0]])).losses)
    assert loss.gradient(whole).policy[0, 1] == 0
    lone = rankings([[1.0, 0.0]], [[2.0, 2.0]], [[3, 0]])
    assert loss(lone).losses.tolist() == [0]
    assert loss.gradient(lone).policy.tolist() == [[0, 0]]
