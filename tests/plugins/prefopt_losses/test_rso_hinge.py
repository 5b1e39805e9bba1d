"""What makes RSO's hinge a hinge: a margin of 1 is enough."""

import torch
from gap_pairs import REGISTRY, losses, pairs, slopes


def test_loss_is_what_the_margin_lacks_to_one():
    batch = pairs([0.0, 3.0, 8.0, 20.0], [0.0, -1.0, 0.0, -20.0])
    assert losses("rso_hinge", batch, beta=0.125) == [1.0, 0.5, 0.0, 0.0]


def test_pull_is_the_same_for_every_pair_below_the_hinge_and_none_at_or_above_it():
    batch = pairs([-1000.0, 7.0, 8.0, 20.0], [0.0, 0.0, 0.0, 0.0])
    chosen, rejected = slopes("rso_hinge", batch, beta=0.125)
    assert chosen == [-0.125, -0.125, 0.0, 0.0]
    assert rejected == [0.125, 0.125, 0.0, 0.0]


def test_reference_counts_unlike_in_slic():
    """A pair that the policy ranks as the reference does has earned nothing yet."""
    assert losses("rso_hinge", pairs([0.0], [0.0])) == [1.0]
    torch.testing.assert_close(
        REGISTRY.loss("rso_hinge", beta=0.5).reward(pairs([3.0], [0.0]).chosen), torch.tensor([1.5]).double()
    )
