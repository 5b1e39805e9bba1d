"""What makes cDPO cDPO: a label that may be wrong, and so a margin that is large enough."""

import math

import pytest
from gap_pairs import losses, pairs, slopes

from prefopt import ConfigError, get_loss


def test_loss_is_the_cross_entropy_against_a_label_that_may_be_flipped():
    q = 1 / (1 + math.exp(-0.5))
    expected = -0.8 * math.log(q) - 0.2 * math.log(1 - q)
    assert losses("cdpo", pairs([3.0], [-2.0]), beta=0.1, label_smoothing=0.2) == pytest.approx([expected], rel=1e-12)


def test_gradient_changes_sign_at_the_margin_that_fits_the_label():
    target = math.log(0.9 / 0.1)
    below, above = slopes("cdpo", pairs([target - 0.01, target + 0.01], [0.0, 0.0]), beta=1.0, label_smoothing=0.1)[0]
    assert below < 0 < above
    assert slopes("cdpo", pairs([target], [0.0]), beta=1.0, label_smoothing=0.1)[0] == pytest.approx([0], abs=1e-13)


def test_smoothing_is_not_ignored():
    """As TRL from 0.29 on does, where the loss is then DPO's."""
    batch = pairs([3.0], [-2.0])
    assert losses("cdpo", batch, label_smoothing=0.1) != losses("cdpo", batch, label_smoothing=0.2)
    assert losses("cdpo", batch) > losses("dpo", batch)


@pytest.mark.parametrize("label_smoothing", [-0.1, 0.5, 0.9])
def test_label_that_says_nothing_is_refused(label_smoothing):
    with pytest.raises(ConfigError, match=r"label_smoothing = .* at least 0 and less than 0\.5"):
        get_loss("cdpo", label_smoothing=label_smoothing)
