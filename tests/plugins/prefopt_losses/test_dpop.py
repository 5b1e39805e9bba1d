"""What makes DPOP positive: a chosen completion may not fall behind the reference."""

import math

import pytest
from gap_pairs import autograd, losses, pairs, slopes


def test_penalty_stands_inside_beta():
    found = losses("dpop", pairs([-0.5], [-4.0]), beta=0.3, lambda_=2.0)
    assert found == pytest.approx([math.log1p(math.exp(-0.3 * (3.5 - 2 * 0.5)))], rel=1e-12)


def test_chosen_completion_ahead_of_the_reference_is_dpo():
    batch = pairs([0.5, 3.0], [-4.0, 5.0])
    assert losses("dpop", batch) == losses("dpo", batch, beta=0.3)
    assert slopes("dpop", batch) == slopes("dpo", batch, beta=0.3)


def test_chosen_completion_behind_is_pulled_harder_than_the_rejected_one_is_pushed():
    chosen, rejected = slopes("dpop", pairs([-0.5], [-4.0]), lambda_=50.0)
    assert chosen[0] == pytest.approx(-51 * rejected[0], rel=1e-12)


def test_first_step_from_the_reference_is_that_of_dpo():
    """The kink: half or all of a penalty of 50 would make the first step another one."""
    start = pairs([0.0], [0.0])
    assert slopes("dpop", start) == ([-0.15], [0.15])
    assert autograd("dpop", start) == ([-0.15], [0.15])
    assert losses("dpop", start) == pytest.approx([math.log(2)], rel=1e-12)
