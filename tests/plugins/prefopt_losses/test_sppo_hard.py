"""What makes SPPO SPPO: each log-ratio is regressed on a target of its own."""

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


@pytest.mark.parametrize(("options", "target"), [({}, 500.0), ({"beta": 0.1}, 5.0)])
def test_loss_is_zero_where_both_log_ratios_meet_their_targets(options, target):
    batch = pairs([target], [-target])
    assert REGISTRY.loss("sppo_hard", **options)(batch).losses.item() == 0
    assert REGISTRY.loss("sppo_hard", **options).gradient(batch).policy_chosen.item() == 0


def test_probabilities_set_the_targets():
    loss = REGISTRY.loss("sppo_hard", beta=0.1, p_chosen=0.75, p_rejected=0.5)
    assert loss(pairs([2.5], [0.0])).losses.item() == 0
    assert loss(pairs([1.5], [3.0])).losses.item() == 1 + 9


def test_squares_are_summed_and_a_scale_of_one_half_averages_them():
    batch = pairs([4.0], [-2.0])
    total, mean = (REGISTRY.loss("sppo_hard", beta=0.1, scale=scale)(batch).losses.item() for scale in (1.0, 0.5))
    assert (total, mean) == (1 + 9, 5)


def test_wide_gap_does_not_excuse_a_side_that_misses_its_target():
    """A function of the gap alone would be content with both sides low."""
    gradient = REGISTRY.loss("sppo_hard", beta=0.1).gradient(pairs([-20.0], [-60.0]))
    assert gradient.policy_chosen.item() == -50
    assert gradient.policy_rejected.item() == -110
