"""What makes f-DPO f-DPO: the divergence sets the reward."""

import math

import pytest
from gap_pairs import REGISTRY, autograd, losses, pairs, slopes

from prefopt import ConfigError, get_loss

REWARDS = {
    "reverse_kl": math.log,
    "forward_kl": lambda u: 1 - 1 / u,
    "jensen_shannon": lambda u: math.log(2 * u / (1 + u)),
    "alpha": lambda u: 2 * (1 - u**-0.5),
}


@pytest.mark.parametrize("divergence", REWARDS)
def test_margin_is_the_difference_of_rewards_under_the_divergence(divergence):
    chosen, rejected = (0.5 * REWARDS[divergence](u) for u in (4.0, 0.25))
    batch, loss = pairs([math.log(4)], [math.log(0.25)]), REGISTRY.loss("fdpo", beta=0.5, divergence=divergence)
    metrics = loss(batch).metrics
    assert metrics["chosen_reward"].tolist() == pytest.approx([chosen], rel=1e-12)
    assert metrics["rejected_reward"].tolist() == pytest.approx([rejected], rel=1e-12)
    assert loss(batch).losses.tolist() == pytest.approx([math.log1p(math.exp(rejected - chosen))], rel=1e-12)


def test_only_reverse_kl_goes_on_rewarding_a_completion_that_is_likely_already():
    """The others saturate: at 0, log 2 and 1 / alpha times beta, up to the constant that cancels."""
    likely = pairs([200.0], [0.0]).chosen
    ends = {name: REGISTRY.loss("fdpo", beta=1.0, divergence=name).reward(likely).item() for name in REWARDS}
    assert ends == pytest.approx({"reverse_kl": 200, "forward_kl": 1, "jensen_shannon": math.log(2), "alpha": 2})


@pytest.mark.parametrize("divergence", ["forward_kl", "alpha"])
def test_powers_that_both_overflow_still_have_an_order(divergence):
    """Infinity less infinity in TRL: here the right pair costs nothing, the wrong one too much for any number."""
    batch = pairs([-3000.0, -2000.0, -2000.0], [-2000.0, -3000.0, -2000.0])
    assert losses("fdpo", batch, divergence=divergence) == [math.inf, 0.0, pytest.approx(math.log(2))]
    for chosen, rejected in (f("fdpo", batch, divergence=divergence) for f in (slopes, autograd)):
        assert chosen == [-math.inf, 0, -math.inf]
        assert rejected == [math.inf, 0, math.inf]


def test_alpha_is_the_paper_s_and_not_one_less_it():
    """TRL's coefficient from 0.29 on is 1 - alpha, and the two agree at one half alone."""
    found = losses("fdpo", pairs([1.0], [-1.0]), beta=1.0, divergence="alpha", alpha=0.25)
    margin = (math.exp(0.25) - math.exp(-0.25)) / 0.25
    assert found == pytest.approx([math.log1p(math.exp(-margin))], rel=1e-12)


def test_absent_alpha_is_one_half():
    batch = pairs([1.0], [-1.0])
    assert losses("fdpo", batch, divergence="alpha") == losses("fdpo", batch, divergence="alpha", alpha=0.5)


@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl", "jensen_shannon"])
def test_alpha_that_nothing_would_read_is_refused(divergence):
    with pytest.raises(ConfigError, match=f"loss fdpo: alpha = 0.5 is read with .* divergence = '{divergence}'; leave"):
        get_loss("fdpo", divergence=divergence, alpha=0.5)


def test_alpha_at_an_end_is_refused():
    with pytest.raises(ConfigError, match=r"alpha = 1\.0; it must be a number greater than 0 and less than 1"):
        get_loss("fdpo", divergence="alpha", alpha=1.0)
