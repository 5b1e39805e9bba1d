"""What makes paired AOT what it is: the distribution of gaps counts, not which reference gap a row has."""

import math

import pytest
import torch

import prefopt

REGISTRY = prefopt.load_registry()


def pairs(policy, reference, weights=None):
    """Pairs whose log-probs, chosen less rejected, are these under the policy and under the reference."""
    policy, reference = torch.tensor(policy, dtype=torch.float64), torch.tensor(reference, dtype=torch.float64)
    rejected, lengths = torch.full_like(policy, -50), torch.ones_like(policy)
    return prefopt.PreferenceBatch.from_pairs(
        policy_chosen=policy - 50,
        policy_rejected=rejected,
        reference_chosen=reference - 50,
        reference_rejected=rejected,
        chosen_lengths=lengths,
        rejected_lengths=lengths,
        weights=None if weights is None else torch.tensor(weights),
    )


def h(margin):
    return math.log1p(math.exp(-margin))


def test_gaps_are_compared_rank_by_rank_at_the_row_of_the_policy():
    """Sorted: 1 2 5 against 0 3 4."""
    losses = REGISTRY.loss("aot_paired", beta=1.0)(pairs([5.0, 1.0, 2.0], [0.0, 4.0, 3.0])).losses
    assert losses.tolist() == pytest.approx([h(5 - 4), h(1 - 0), h(2 - 3)], rel=1e-12)


def test_order_of_the_reference_gaps_does_not_matter():
    loss = REGISTRY.loss("aot_paired", beta=1.0)
    one, other = (pairs([5.0, 1.0, 2.0], reference) for reference in ([0.0, 4.0, 3.0], [4.0, 3.0, 0.0]))
    assert loss(one).losses.equal(loss(other).losses)
    assert loss.gradient(one).policy_chosen.equal(loss.gradient(other).policy_chosen)


def test_equal_distributions_have_nothing_to_tell_apart():
    losses = REGISTRY.loss("aot_paired")(pairs([5.0, 1.0, 2.0], [2.0, 5.0, 1.0])).losses
    assert losses.tolist() == pytest.approx([math.log(2)] * 3, rel=1e-12)


def test_label_smoothing_mixes_in_the_other_label():
    losses = REGISTRY.loss("aot_paired", beta=1.0, label_smoothing=0.25)(pairs([5.0], [3.0])).losses
    assert losses.item() == pytest.approx(0.75 * h(2) + 0.25 * h(-2), rel=1e-12)


def test_heavy_row_meets_several_reference_gaps():
    """Sorted with repetition: 1 1 5 against 0 4 4."""
    losses = REGISTRY.loss("aot_paired", beta=1.0)(pairs([5.0, 1.0], [0.0, 4.0], weights=[1.0, 2.0])).losses
    assert losses.tolist() == pytest.approx([h(5 - 4), (h(1 - 0) + h(1 - 4)) / 2], rel=1e-12)
