"""What makes chi-PO chi-squared: the ratio itself in the reward, beside its logarithm."""

import math

import pytest
from gap_pairs import REGISTRY, autograd, losses, pairs, slopes

from prefopt import ConfigError, get_loss


def test_link_is_the_ratio_and_its_logarithm():
    batch, loss = pairs([math.log(2)], [math.log(0.5)]), REGISTRY.loss("chipo", beta=0.5)
    chosen, rejected = 0.5 * (2 + math.log(2)), 0.5 * (0.5 - math.log(2))
    assert loss(batch).metrics["chosen_reward"].tolist() == pytest.approx([chosen], rel=1e-12)
    assert loss(batch).losses.tolist() == pytest.approx([math.log1p(math.exp(rejected - chosen))], rel=1e-12)


def test_first_step_from_the_reference_is_twice_that_of_dpo():
    start = pairs([0.0], [0.0])
    assert slopes("chipo", start, beta=0.1)[0] == pytest.approx([2 * slopes("dpo", start, beta=0.1)[0][0]], rel=1e-12)


def test_margin_counts_up_to_twice_the_largest_reward():
    within, beyond = pairs([1.0], [0.0]), pairs([3.0, -3.0], [-3.0, 3.0])
    hyperparameters = {"beta": 0.5, "r_max": 1.0}  # the margin within is 1.36
    assert losses("chipo", within, **hyperparameters) == losses("chipo", within, beta=0.5)
    expected = [math.log1p(math.exp(-2)), math.log1p(math.exp(2))]
    assert losses("chipo", beyond, **hyperparameters) == pytest.approx(expected, rel=1e-12)
    for found in (slopes, autograd):
        assert found("chipo", beyond, **hyperparameters) == ([0, 0], [0, 0])
        assert found("chipo", within, **hyperparameters) == found("chipo", within, beta=0.5)


def test_clip_is_by_the_reward_and_not_by_the_log_ratio():
    assert losses("chipo", pairs([1.0], [-1.0]), beta=0.1, r_max=2.0) == losses("chipo", pairs([1.0], [-1.0]), beta=0.1)


@pytest.mark.parametrize("r_max", [None, 2.0])
def test_powers_that_both_overflow_still_have_an_order(r_max):
    batch = pairs([3000.0, 2000.0, 2000.0], [2000.0, 3000.0, 2000.0])
    right, wrong, even = losses("chipo", batch, r_max=r_max)
    assert even == pytest.approx(math.log(2), rel=1e-12)
    assert (right, wrong) == ((0, math.inf) if r_max is None else pytest.approx((math.log1p(math.exp(-4)), 4.0181499)))
    steep = [0, -math.inf if r_max is None else 0, -math.inf]
    for chosen, rejected in (found("chipo", batch, r_max=r_max) for found in (slopes, autograd)):
        assert chosen == steep
        assert rejected == [-slope for slope in steep]


@pytest.mark.parametrize("r_max", [0.0, -1.0, math.inf])
def test_bound_that_is_none_is_refused(r_max):
    with pytest.raises(ConfigError, match="loss chipo: r_max = .*; it must be a number greater than 0"):
        get_loss("chipo", r_max=r_max)
