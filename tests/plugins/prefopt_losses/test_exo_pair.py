"""What makes EXO EXO: the divergence of the policy from the label, not of the label from the policy."""

import math

import pytest
from gap_pairs import losses, pairs, slopes

from prefopt import ConfigError, get_loss


def test_loss_is_the_reverse_divergence():
    q, p = 1 / (1 + math.exp(-0.5)), 0.9
    expected = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    batch = pairs([3.0], [-2.0])
    assert losses("exo_pair", batch, beta=0.1, label_smoothing=0.1) == pytest.approx([expected], rel=1e-12)


def test_margin_is_pulled_to_the_log_odds_of_the_label_from_both_sides():
    target = math.log(0.999 / 0.001)
    batch = pairs([target - 1, target, target + 1], [0.0] * 3)
    below, there, above = slopes("exo_pair", batch, beta=1.0)[0]
    assert below < 0 < above
    assert there == pytest.approx(0, abs=1e-15)
    assert losses("exo_pair", batch, beta=1.0)[1] == pytest.approx(0, abs=1e-15)


def test_loss_is_bounded_and_flat_for_hopeless_pairs():
    """Mode-seeking: where DPO's gradient is largest, this one vanishes."""
    hopeless = pairs([-1000.0], [1000.0])
    assert losses("exo_pair", hopeless, beta=1.0) == pytest.approx([-math.log(1e-3)], rel=1e-12)
    assert slopes("exo_pair", hopeless, beta=1.0) == ([0.0], [0.0])


def test_authors_unnormalised_label_differs_by_less_than_rounding_of_a_report():
    """Their log-probabilities (0, -10) sum to 1 + e^-10; the docstring names the difference."""
    batch, smoothing = pairs([30.0], [-20.0]), math.exp(-10)
    q = 1 / (1 + math.exp(-5.0))
    theirs = q * math.log(q) + (1 - q) * (math.log(1 - q) + 10)
    ours = losses("exo_pair", batch, beta=0.1, label_smoothing=smoothing)[0]
    assert theirs - ours == pytest.approx(q * math.log1p(-smoothing), rel=1e-9)
    assert abs(theirs - ours) < 5e-5


@pytest.mark.parametrize("label_smoothing", [0.0, 1.0])
def test_certain_label_is_refused(label_smoothing):
    with pytest.raises(ConfigError, match="label_smoothing = .* greater than 0 and less than 1"):
        get_loss("exo_pair", label_smoothing=label_smoothing)
