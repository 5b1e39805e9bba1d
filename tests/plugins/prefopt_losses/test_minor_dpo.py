"""What makes MinorDPO minor: a rejected completion is pushed down to the reference and no further."""

import math

import pytest
from gap_pairs import autograd, losses, pairs, slopes


def test_rejected_completion_counts_while_it_is_ahead_of_the_reference():
    found = losses("minor_dpo", pairs([3.0, 3.0], [2.0, -2.0]), beta=0.1)
    assert found == pytest.approx([math.log1p(math.exp(-0.1)), math.log1p(math.exp(-0.3))], rel=1e-12)


def test_rejected_completion_behind_the_reference_is_left_alone():
    chosen, rejected = slopes("minor_dpo", pairs([3.0, 3.0], [2.0, -2.0]))
    assert chosen[0] == -rejected[0] < 0
    assert chosen[1] < 0 == rejected[1]


def test_first_step_from_the_reference_moves_the_chosen_completion_alone():
    """The kink: half or all of the slope would push the rejected one."""
    start = pairs([0.0], [0.0])
    assert slopes("minor_dpo", start, beta=0.1) == ([-0.05], [0.0])
    assert autograd("minor_dpo", start, beta=0.1) == ([-0.05], [0.0])


def test_rejected_completion_ahead_is_dpo():
    batch = pairs([3.0, -1.0], [2.0, 0.5])
    assert losses("minor_dpo", batch) == losses("dpo", batch)
    assert slopes("minor_dpo", batch) == slopes("dpo", batch)
