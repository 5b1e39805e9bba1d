"""What makes sequence unlikelihood what it is: two straight lines, one of them without an end."""

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


@pytest.mark.parametrize(("alpha", "expected"), [(1.0, 8 - 15), (0.5, 8 - 7.5), (0.0, 8)])
def test_loss_is_the_nll_plus_alpha_times_the_rejected_log_prob(alpha, expected):
    output = REGISTRY.loss("unlikelihood_seq", alpha=alpha)(pairs([-8.0], [-15.0], (4, 5)))
    assert output.losses.item() == expected
    assert output.terms["nll"][1].item() == 1


def test_loss_is_unbounded_below():
    losses = REGISTRY.loss("unlikelihood_seq")(pairs([-1.0, -1.0], [-1e3, -1e6])).losses
    assert losses.tolist() == [1 - 1e3, 1 - 1e6]


def test_pushes_never_slacken():
    gradient = REGISTRY.loss("unlikelihood_seq", alpha=0.5).gradient(pairs([-1e-3, -1e3], [-1e3, -1e-3], (4, 5)))
    assert gradient.policy_chosen.tolist() == [-1, -1]
    assert gradient.policy_rejected.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(("nll", "value", "normaliser"), [("sum", 8, 1), ("sequence", 2, 1), ("token", 8, 4)])
def test_nll_sets_the_reduction_of_the_chosen_side_alone(nll, value, normaliser):
    terms = REGISTRY.loss("unlikelihood_seq", nll=nll)(pairs([-8.0], [-15.0], (4, 5))).terms
    assert [tensor.item() for tensor in terms["nll"]] == [value, normaliser]
    assert [tensor.item() for tensor in terms["unlikelihood"]] == [-15, 1]
