"""What makes unpaired AOT what it is: chosen and rejected completions are two samples, sorted apart."""

import math

import pytest
import torch

import prefopt

REGISTRY = prefopt.load_registry()


def pairs(chosen, rejected, weights=None):
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
        weights=None if weights is None else torch.tensor(weights),
    )


def h(margin):
    return math.log1p(math.exp(-margin))


def s(x):
    return 1 / (1 + math.exp(-x))


def test_log_ratios_are_compared_rank_by_rank_at_the_row_of_the_chosen():
    """Sorted: 1 2 5 against 0 3 4."""
    losses = REGISTRY.loss("aot_unpaired", beta=1.0)(pairs([5.0, 1.0, 2.0], [0.0, 4.0, 3.0])).losses
    assert losses.tolist() == pytest.approx([h(5 - 4), h(1 - 0), h(2 - 3)], rel=1e-12)


def test_gradient_reaches_the_rejected_completion_of_the_same_rank():
    gradient = REGISTRY.loss("aot_unpaired", beta=1.0).gradient(pairs([5.0, 1.0, 2.0], [0.0, 4.0, 3.0]))
    assert gradient.policy_chosen.tolist() == pytest.approx([-s(-1), -s(-1), -s(1)], rel=1e-12)
    assert gradient.policy_rejected.tolist() == pytest.approx([s(-1), s(-1), s(1)], rel=1e-12)
    swapped = REGISTRY.loss("aot_unpaired", beta=1.0).gradient(pairs([5.0, 1.0, 2.0], [3.0, 0.0, 4.0]))
    assert swapped.policy_chosen.equal(gradient.policy_chosen)
    assert swapped.policy_rejected.tolist() == pytest.approx([s(1), s(-1), s(-1)], rel=1e-12)


def test_rejected_completion_a_row_came_with_does_not_matter():
    loss = REGISTRY.loss("aot_unpaired", beta=1.0)
    one, other = (pairs([5.0, 1.0, 2.0], rejected) for rejected in ([0.0, 4.0, 3.0], [4.0, 3.0, 0.0]))
    assert loss(one).losses.equal(loss(other).losses)


def test_label_smoothing_mixes_in_the_other_label():
    losses = REGISTRY.loss("aot_unpaired", beta=1.0, label_smoothing=0.25)(pairs([5.0], [3.0])).losses
    assert losses.item() == pytest.approx(0.75 * h(2) + 0.25 * h(-2), rel=1e-12)


def test_heavy_row_meets_several_rejected_completions():
    """Sorted with repetition: 1 1 5 against 0 4 4."""
    losses = REGISTRY.loss("aot_unpaired", beta=1.0)(pairs([5.0, 1.0], [0.0, 4.0], weights=[1.0, 2.0])).losses
    assert losses.tolist() == pytest.approx([h(5 - 4), (h(1 - 0) + h(1 - 4)) / 2], rel=1e-12)
