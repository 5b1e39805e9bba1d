"""What makes SLiC SLiC: a hinge on log-probs without a reference, and an NLL."""

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


def test_hinge_is_open_until_the_gap_reaches_delta():
    terms = REGISTRY.loss("slic", delta=2.0)(pairs([-8.0, -8.0, -8.0], [-7.0, -9.5, -11.0])).terms
    assert terms["preference"][0].tolist() == [3, 0.5, 0]


def test_pair_at_the_kink_has_no_slope():
    batch = pairs([-8.0, -8.0], [-9.0, -8.75])
    gradient = REGISTRY.loss("slic", delta=1.0, lambda_=0.0).gradient(batch)
    assert gradient.policy_rejected.tolist() == [0, 1]
    assert gradient.policy_chosen.tolist() == [0, -1]


def test_nll_is_a_sum_and_stays_when_the_hinge_is_shut():
    batch = pairs([-8.0], [-20.0], (4, 5))
    loss = REGISTRY.loss("slic", lambda_=0.5)
    assert [tensor.item() for tensor in loss(batch).terms["nll"]] == [4, 1]
    assert loss.gradient(batch).policy_chosen.item() == -0.5


@pytest.mark.parametrize(("nll", "value", "normaliser"), [("sum", 8, 1), ("sequence", 2, 1), ("token", 8, 4)])
def test_nll_term_carries_the_normaliser_of_its_reduction(nll, value, normaliser):
    terms = REGISTRY.loss("slic", lambda_=0.5, nll=nll)(pairs([-8.0], [-20.0], (4, 5))).terms
    assert [tensor.item() for tensor in terms["nll"]] == [value / 2, normaliser]


def test_no_reference_is_read():
    """The hinge of TRL is on log-ratios; that one is `rso_hinge`."""
    assert not REGISTRY.losses["slic"].needs.reference
