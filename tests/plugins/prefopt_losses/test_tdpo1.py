"""What makes TDPO1 TDPO1: the KL of both sides is part of the margin and is trained."""

import math

import pytest
import torch

import prefopt

LOSS = prefopt.get_loss("tdpo1", beta=0.5)


def batch(gap, chosen_kl, rejected_kl):
    """One pair with that gap and these KLs at its positions."""
    kls = [torch.tensor(values, dtype=torch.float64).requires_grad_() for values in (chosen_kl, rejected_kl)]
    sides = [
        prefopt.Tokens(-torch.ones_like(kl), torch.tensor([0, len(kl)]), -torch.ones_like(kl), reference_kl=kl)
        for kl in kls
    ]
    zero = torch.zeros(1, dtype=torch.float64)
    return prefopt.PreferenceBatch.from_pairs(
        policy_chosen=zero + gap - 10,
        policy_rejected=zero - 10,
        reference_chosen=zero - 10,
        reference_rejected=zero - 10,
        chosen_lengths=sides[0].lengths,
        rejected_lengths=sides[1].lengths,
        chosen_tokens=sides[0],
        rejected_tokens=sides[1],
    )


def test_margin_is_less_by_what_the_rejected_kl_exceeds_the_chosen_one():
    loss = LOSS(batch(3.0, [0.25, 0.5], [1.0, 0.5, 1.25])).losses.item()
    assert loss == pytest.approx(math.log1p(math.exp(-0.5 * (3 - (2.75 - 0.75)))), rel=1e-12)


def test_loss_is_dpos_where_the_kls_are_equal():
    loss = LOSS(batch(3.0, [0.25, 0.5], [0.75])).losses.item()
    assert loss == pytest.approx(math.log1p(math.exp(-1.5)), rel=1e-12)


def test_every_position_of_both_sides_is_trained():
    rows = batch(2.0, [0.25, 0.5], [1.0, 0.5, 1.25])
    LOSS(rows).losses.sum().backward()
    slope = 0.5 / (1 + math.exp(0.5 * (2 - 2)))
    assert rows.chosen.tokens.reference_kl.grad.tolist() == pytest.approx([-slope] * 2, rel=1e-12)
    assert rows.rejected.tokens.reference_kl.grad.tolist() == pytest.approx([slope] * 3, rel=1e-12)


def test_reward_leaves_the_kl_out():
    metrics = LOSS(batch(3.0, [9.0], [7.0])).metrics
    assert (metrics["chosen_reward"].item(), metrics["rejected_reward"].item()) == (1.5, 0.0)
