"""What makes BCO BCO: a shift between the two classes that is a mean over all rows ever seen."""

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


def test_shift_is_updated_before_use():
    """Rewards of 3 and 1 lie one above and one below their own mean, in the very first batch."""
    output = REGISTRY.loss("bco_pair", beta=1.0)(pairs([3.0], [1.0]))
    assert output.metrics["shift"].tolist() == [2]
    assert output.losses.item() == pytest.approx(2 * math.log1p(math.exp(-1)), rel=1e-12)


def test_shift_is_the_mean_of_all_rows_so_far():
    """Not a mean of batch means, and no moving average: 1 + 1 + 1 + 9 over four rows."""
    loss = REGISTRY.loss("bco_pair", beta=1.0)
    first = loss(pairs([1.0] * 3, [1.0] * 3))
    second = loss(pairs([9.0], [9.0], state=first.state))
    assert second.metrics["shift"].tolist() == [3]
    assert {name: value.item() for name, value in second.state.items()} == {"mean": 3, "weight": 4}


def test_row_counts_by_its_weight():
    loss = REGISTRY.loss("bco_pair", beta=1.0)
    output = loss(pairs([1.0, 9.0], [1.0, 9.0], weights=torch.tensor([3.0, 1.0])))
    assert output.metrics["shift"].tolist() == [3, 3]


def test_state_is_a_new_value():
    loss = REGISTRY.loss("bco_pair")
    before = loss(pairs([1.0], [2.0])).state
    kept = {name: value.clone() for name, value in before.items()}
    after = loss(pairs([4.0], [8.0], state=before)).state
    assert before == kept
    assert after["mean"] != before["mean"]


def test_shift_is_a_constant_for_the_gradient():
    """A row of mean 0 seen before puts the shift at 1: 2 below the chosen reward, at the rejected one."""
    one = torch.ones((), dtype=torch.float64)
    batch = pairs([3.0], [1.0], state={"mean": 0 * one, "weight": one})
    chosen, rejected = batch.chosen.policy.requires_grad_(), batch.rejected.policy.requires_grad_()
    slopes = torch.autograd.grad(REGISTRY.loss("bco_pair", beta=1.0)(batch).losses.sum(), [chosen, rejected])
    assert [slope.item() for slope in slopes] == pytest.approx([-1 / (1 + math.exp(2)), 1 / 2], rel=1e-12)
