"""What makes CPO-SimPO CPO-SimPO: SimPO per token, and an NLL over the tokens of the batch."""

import math

import pytest
import torch

import prefopt

REGISTRY = prefopt.load_registry()


def pairs(chosen, rejected, lengths=(1, 1)):
    """Pairs with these log-probs."""
    chosen, rejected = (torch.tensor(values, dtype=torch.float64) for values in (chosen, rejected))
    return prefopt.PreferenceBatch.from_pairs(
        policy_chosen=chosen,
        policy_rejected=rejected,
        chosen_lengths=torch.full_like(chosen, lengths[0]),
        rejected_lengths=torch.full_like(rejected, lengths[1]),
    )


def test_loss_is_simpo_plus_the_weighted_nll():
    losses = REGISTRY.loss("cpo_simpo", beta=2.0, gamma=0.5, lambda_=0.1)(pairs([-8.0], [-15.0], (4, 5))).losses
    assert losses.item() == pytest.approx(math.log1p(math.exp(-1.5)) + 0.8, rel=1e-14)


def test_defaults_are_the_recipe_of_the_authors():
    loss = REGISTRY.loss("cpo_simpo")
    assert (loss.beta, loss.gamma, loss.lambda_, loss.nll) == (10, 5.4, 0.05, "token")


@pytest.mark.parametrize(("nll", "value", "normaliser"), [("token", 8, 4), ("sum", 8, 1), ("sequence", 2, 1)])
def test_nll_term_carries_the_normaliser_of_its_reduction(nll, value, normaliser):
    terms = REGISTRY.loss("cpo_simpo", lambda_=0.5, nll=nll)(pairs([-8.0], [-15.0], (4, 5))).terms
    assert [tensor.item() for tensor in terms["nll"]] == [value / 2, normaliser]
    assert terms["preference"][1].item() == 1


def test_preference_term_is_simpo_whatever_lambda():
    batch = pairs([-8.0, -20.0], [-15.0, -6.0], (4, 5))
    found = REGISTRY.loss("cpo_simpo", beta=2.0, gamma=0.5, lambda_=3.0)(batch).terms["preference"][0]
    assert found.equal(REGISTRY.loss("simpo", beta=2.0, gamma=0.5)(batch).losses)
