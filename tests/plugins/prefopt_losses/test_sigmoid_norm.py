"""What makes it length-normalised: log-ratios per token."""

import math

import pytest
from gap_pairs import REGISTRY, losses, pairs, slopes


def test_margin_is_of_log_ratios_per_token():
    found = losses("sigmoid_norm", pairs([3.0], [-2.0], (6, 8)), beta=2.0)
    assert found == pytest.approx([math.log1p(math.exp(-2 * (0.5 + 0.25)))], rel=1e-12)


def test_completions_of_one_token_are_dpo():
    batch = pairs([3.0, -1.0], [-2.0, 0.5])
    assert losses("sigmoid_norm", batch, beta=0.1) == losses("dpo", batch, beta=0.1)
    assert slopes("sigmoid_norm", batch, beta=0.1) == slopes("dpo", batch, beta=0.1)


def test_gradient_is_shared_out_over_the_tokens():
    chosen, rejected = slopes("sigmoid_norm", pairs([3.0], [-2.0], (6, 8)))
    assert 6 * chosen[0] == pytest.approx(-8 * rejected[0], rel=1e-12)


def test_default_beta_is_that_of_tulu_3_and_not_of_trl():
    assert REGISTRY.loss("sigmoid_norm").beta == 5.0


def test_reward_is_per_token():
    metrics = REGISTRY.loss("sigmoid_norm", beta=2.0)(pairs([3.0], [-2.0], (6, 8))).metrics
    assert (metrics["chosen_reward"].item(), metrics["rejected_reward"].item()) == (1.0, -0.5)
