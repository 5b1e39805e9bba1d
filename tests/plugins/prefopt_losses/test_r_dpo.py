"""What makes R-DPO R-DPO: length has a price, and the sign of it is a plus."""

import math

import pytest
from gap_pairs import REGISTRY, losses, pairs, slopes


def test_margin_has_alpha_for_every_token_that_chosen_is_longer():
    found = losses("r_dpo", pairs([3.0], [-2.0], (9, 4)), beta=0.1, alpha=0.25)
    assert found == pytest.approx([math.log1p(math.exp(-(0.5 + 1.25)))], rel=1e-12)


def test_longer_chosen_completion_pulls_less_and_shorter_one_more():
    """The other sign, which two libraries have, rewards length."""
    (longer,), (same,), (shorter,) = (
        slopes("r_dpo", pairs([3.0], [-2.0], lengths), alpha=0.05)[0] for lengths in ((30, 10), (10, 10), (10, 30))
    )
    assert shorter < same < longer < 0
    assert [same] == slopes("dpo", pairs([3.0], [-2.0]))[0]


def test_long_completions_differ_exactly_in_few_digits():
    """bfloat16 holds no odd number beyond 256: 300 and 301 tokens would be one length."""
    loss = REGISTRY.loss("r_dpo", beta=0.1, alpha=1.0)
    batch = pairs([0.0], [0.0], (301, 300))
    short = type(batch).from_pairs(
        policy_chosen=batch.chosen.policy.bfloat16(),
        policy_rejected=batch.rejected.policy.bfloat16(),
        reference_chosen=batch.chosen.reference.bfloat16(),
        reference_rejected=batch.rejected.reference.bfloat16(),
        chosen_lengths=batch.chosen.lengths,
        rejected_lengths=batch.rejected.lengths,
    )
    assert loss(short).losses.item() == pytest.approx(math.log1p(math.exp(-1)), rel=4e-3)


def test_reward_is_less_by_alpha_for_every_token():
    metrics = REGISTRY.loss("r_dpo", beta=0.5, alpha=0.25)(pairs([3.0], [-2.0], (8, 4))).metrics
    assert (metrics["chosen_reward"].item(), metrics["rejected_reward"].item()) == (1.5 - 2, -1 - 1)
