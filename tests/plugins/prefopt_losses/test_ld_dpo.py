"""What makes LD-DPO LD-DPO: tokens beyond the shorter completion's length count less."""

import math

import pytest
import torch

import prefopt

REGISTRY = prefopt.load_registry()


def tokens(rows, shift=0.0):
    """The token log-ratios of each row; the policy's log-probs are -2 + `shift`."""
    log_ratios = torch.tensor([value for row in rows for value in row], dtype=torch.float64)
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    policy = torch.full_like(log_ratios, shift - 2)
    return prefopt.Tokens(policy, offsets, policy - log_ratios)


def batch(chosen, rejected, shift=0.0):
    chosen, rejected = tokens(chosen, shift), tokens(rejected, shift)
    return prefopt.PreferenceBatch.from_pairs(
        policy_chosen=chosen.sum(chosen.policy),
        policy_rejected=rejected.sum(rejected.policy),
        reference_chosen=chosen.sum(chosen.reference),
        reference_rejected=rejected.sum(rejected.reference),
        chosen_lengths=chosen.lengths,
        rejected_lengths=rejected.lengths,
        chosen_tokens=chosen,
        rejected_tokens=rejected,
    )


def margins(rows, **hyperparameters):
    losses = REGISTRY.loss("ld_dpo", beta=1.0, **hyperparameters)(rows).losses
    return [-math.log(math.expm1(value)) for value in losses.tolist()]


def test_tokens_beyond_the_shared_length_count_alpha_on_whichever_side_is_longer():
    rows = batch([[1.0, 0.5, 0.25, 2.0], [0.5]], [[0.125, 0.25], [0.25, 1.0, 0.5]])
    expected = [1.5 + 0.3 * 2.25 - 0.375, 0.5 - (0.25 + 0.3 * 1.5)]
    assert margins(rows, alpha=0.3) == pytest.approx(expected, rel=1e-12)


def test_tokens_beyond_the_shared_length_count_nothing_at_alpha_0():
    rows = batch([[1.0, 0.5, 7.0]], [[0.125, 0.25]])
    other = batch([[1.0, 0.5, -3.0, 4.0]], [[0.125, 0.25]])
    assert margins(rows, alpha=0.0) == margins(other, alpha=0.0) == pytest.approx([1.125], rel=1e-12)


def test_alpha_is_of_no_account_where_lengths_are_equal():
    rows = batch([[1.0, 0.5]], [[0.125, 0.25]])
    assert margins(rows, alpha=0.0) == margins(rows, alpha=0.5) == margins(rows, alpha=1.0)


def test_gradient_is_dpos_on_shared_tokens_and_alpha_of_it_beyond():
    rows = batch([[0.0, 0.0, 0.0], [0.0]], [[0.0], [0.0, 0.0]])
    gradient = REGISTRY.loss("ld_dpo", beta=0.5, alpha=0.25).gradient(rows)
    assert gradient.chosen_tokens.tolist() == pytest.approx([-0.25, -0.0625, -0.0625, -0.25], rel=1e-12)
    assert gradient.rejected_tokens.tolist() == pytest.approx([0.25, 0.25, 0.0625], rel=1e-12)
    assert gradient.policy_chosen is None


def test_reference_is_scaled_like_the_policy_unless_told_otherwise():
    """LLaMA-Factory scales the policy alone, so that its margin is not 0 where the policy equals the reference."""
    rows = batch([[0.0, 0.0, 0.0]], [[0.0]])
    assert margins(rows, alpha=0.5) == pytest.approx([0], abs=1e-12)
    # Two tokens of -2 nats count a half for the policy and in full for the reference.
    assert margins(rows, alpha=0.5, scale_reference=False) == pytest.approx([2 * (0.5 * -2 + 2)], rel=1e-12)


def test_reward_counts_every_token_in_full():
    rows = batch([[1.0, 0.5, 7.0]], [[0.125, 0.25]])
    metrics = REGISTRY.loss("ld_dpo", beta=0.5)(rows).metrics
    assert (metrics["chosen_reward"].item(), metrics["rejected_reward"].item()) == (4.25, 0.1875)
