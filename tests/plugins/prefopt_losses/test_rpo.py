"""What makes RPO RPO: DPO, and an NLL that keeps the chosen completion likely."""

import math

import pytest
import torch

import prefopt

REGISTRY = prefopt.load_registry()


def pairs(chosen, rejected):
    """Pairs with these log-ratios."""
    chosen, rejected = (torch.tensor(values, dtype=torch.float64) for values in (chosen, rejected))
    return prefopt.PreferenceBatch.from_pairs(
        policy_chosen=chosen - 50,
        policy_rejected=rejected - 60,
        reference_chosen=torch.full_like(chosen, -50),
        reference_rejected=torch.full_like(rejected, -60),
        chosen_lengths=torch.full_like(chosen, 5),
        rejected_lengths=torch.full_like(rejected, 4),
    )


@pytest.mark.parametrize(("nll", "value", "normaliser"), [("sequence", 9.6, 1), ("token", 48.0, 5), ("sum", 48.0, 1)])
def test_nll_term_carries_the_normaliser_of_its_reduction(nll, value, normaliser):
    """The chosen completion has 5 tokens and a log-prob of -48."""
    terms = REGISTRY.loss("rpo", alpha=0.5, nll=nll)(pairs([2.0], [-1.0])).terms
    values, normalisers = terms["nll"]
    assert values.item() == pytest.approx(value / 2, rel=1e-14)
    assert normalisers.tolist() == [normaliser]


def test_preference_term_is_that_of_dpo_whatever_alpha():
    batch = pairs([2.0, -3.0], [-1.0, 4.0])
    values, normaliser = REGISTRY.loss("rpo", beta=0.2, alpha=7.0)(batch).terms["preference"]
    torch.testing.assert_close(values, REGISTRY.loss("dpo", beta=0.2)(batch).losses, rtol=1e-15, atol=0)
    assert normaliser.tolist() == [1, 1]


def test_default_is_the_mean_nll_per_token_of_each_completion():
    losses = REGISTRY.loss("rpo", beta=0.1)(pairs([2.0], [-1.0])).losses
    assert losses.item() == pytest.approx(math.log1p(math.exp(-0.3)) + 48 / 5, rel=1e-14)


def test_push_on_the_chosen_completion_stays_when_the_preference_is_learnt():
    gradient = REGISTRY.loss("rpo", beta=1.0, alpha=1.0).gradient(pairs([50.0], [-500.0]))
    assert gradient.policy_chosen.item() == pytest.approx(-1 / 5, rel=1e-14)
    assert gradient.policy_rejected.item() == pytest.approx(0, abs=1e-200)
