"""What makes NCA NCA: each reward counts by itself, not against the others."""

import math

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


def test_optimum_fixes_each_reward():
    """s(R) / K = t s(-R) gives e^R = K t: twice the uniform share is worth ln 2, half of it -ln 2."""
    target = [1 / 2, 3 / 8, 1 / 8]
    optimum = rankings([[math.log(3 * share) for share in target]], [[math.log(share) for share in target]])
    loss = REGISTRY.loss("nca_list", beta=1.0, alpha=1.0)
    assert loss.gradient(optimum).policy.abs().max() < 1e-15
    wins = [3 * share / (1 + 3 * share) for share in target]
    expected = -sum(t * math.log(p) + math.log(1 - p) / 3 for t, p in zip(target, wins, strict=True))
    assert loss(optimum).losses.item() == pytest.approx(expected, rel=1e-12)


def test_raising_all_rewards_is_not_free():
    loss, scores = REGISTRY.loss("nca_list", beta=1.0), [[3.0, 2.5, 0.0]]
    assert loss(rankings([[0.0] * 3], scores)).losses.item() == pytest.approx(2 * math.log(2), rel=1e-12)
    assert loss(rankings([[5.0] * 3], scores)).losses.item() == pytest.approx(
        math.log1p(math.exp(-5)) + math.log1p(math.exp(5)), rel=1e-12
    )


def test_absent_slot_counts_neither_in_the_target_nor_in_k():
    loss = REGISTRY.loss("nca_list", beta=0.5)
    whole = rankings([[1.0, INF, -2.0]], [[2.0, 9.0, 1.0]], [[3, 0, 4]])
    assert loss(whole).losses.equal(loss(rankings([[1.0, -2.0]], [[2.0, 1.0]])).losses)
    assert loss.gradient(whole).policy[0, 1] == 0
    lone = rankings([[2.0, 0.0]], [[2.0, 2.0]], [[3, 0]])
    assert loss(lone).losses.item() == pytest.approx(math.log1p(math.exp(-1)) + math.log1p(math.exp(1)), rel=1e-12)
