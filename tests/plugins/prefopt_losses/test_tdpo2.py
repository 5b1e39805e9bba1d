"""What makes TDPO2 TDPO2: a share of the KLs in the margin, and the chosen one a constant."""

import math

import pytest
import torch

import prefopt

REGISTRY = prefopt.load_registry()


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


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
def test_alpha_is_the_share_of_the_kls_in_the_margin(alpha):
    loss = REGISTRY.loss("tdpo2", beta=0.5, alpha=alpha)(batch(3.0, [0.25, 0.5], [1.0, 0.5, 1.25])).losses.item()
    assert loss == pytest.approx(math.log1p(math.exp(-0.5 * (3 - alpha * (2.75 - 0.75)))), rel=1e-12)


def test_value_is_tdpo1s_at_alpha_1():
    rows = batch(3.0, [0.25, 0.5], [1.0, 0.5, 1.25])
    first, second = REGISTRY.loss("tdpo1", beta=0.5), REGISTRY.loss("tdpo2", beta=0.5, alpha=1.0)
    assert second(rows).losses.item() == pytest.approx(first(rows).losses.item(), rel=1e-12)


def test_chosen_kl_is_a_constant_and_every_rejected_position_is_trained():
    rows = batch(1.0, [0.25, 0.5], [1.0, 0.5, 1.25])
    REGISTRY.loss("tdpo2", beta=0.5, alpha=0.5)(rows).losses.sum().backward()
    slope = 0.5 / (1 + math.exp(0.5 * (1 - 0.5 * 2)))
    assert rows.chosen.tokens.reference_kl.grad is None
    assert rows.rejected.tokens.reference_kl.grad.tolist() == pytest.approx([0.5 * slope] * 3, rel=1e-12)
