"""What makes CPO CPO: DPO without a reference, held by a summed NLL."""

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


def test_default_adds_the_summed_nll():
    output = REGISTRY.loss("cpo", beta=0.1)(pairs([-8.0], [-15.0], (4, 5)))
    assert output.losses.item() == pytest.approx(math.log1p(math.exp(-0.7)) + 8, rel=1e-14)
    assert output.terms["nll"][1].item() == 1


@pytest.mark.parametrize(("nll", "value", "normaliser"), [("sum", 8, 1), ("sequence", 2, 1), ("token", 8, 4)])
def test_nll_term_carries_the_normaliser_of_its_reduction(nll, value, normaliser):
    terms = REGISTRY.loss("cpo", lambda_=0.5, nll=nll)(pairs([-8.0], [-15.0], (4, 5))).terms
    assert [tensor.item() for tensor in terms["nll"]] == [value / 2, normaliser]
    assert terms["preference"][1].item() == 1


def test_preference_term_is_dpo_under_a_reference_that_gives_all_the_same():
    batch = pairs([-8.0, -9.0], [-15.0, -2.0])
    same = torch.full((2,), -12.0, dtype=torch.float64)
    anchored = prefopt.PreferenceBatch.from_pairs(
        policy_chosen=batch.chosen.policy,
        policy_rejected=batch.rejected.policy,
        reference_chosen=same,
        reference_rejected=same,
        chosen_lengths=batch.chosen.lengths,
        rejected_lengths=batch.rejected.lengths,
    )
    found = REGISTRY.loss("cpo", beta=0.3)(batch).terms["preference"][0]
    torch.testing.assert_close(found, REGISTRY.loss("dpo", beta=0.3)(anchored).losses, rtol=1e-14, atol=0)


def test_lengths_do_not_reach_the_preference():
    short, long = (REGISTRY.loss("cpo").gradient(pairs([-8.0], [-15.0], (n, n))).policy_rejected for n in (1, 9))
    assert short.equal(long)
