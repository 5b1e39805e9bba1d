"""What makes ODPO ODPO: the better the chosen completion scores, the larger the margin it is to have."""

import math

import pytest
from gap_pairs import losses, pairs, slopes

from prefopt import ConfigError, get_loss


def test_offset_is_the_log_of_the_gap_in_score():
    found = losses("odpo", pairs([3.0], [-2.0], scores=([4.0], [1.0])), beta=0.1, alpha=0.5)
    assert found == pytest.approx([math.log1p(math.exp(-(0.5 - 0.5 * math.log(3))))], rel=1e-12)


def test_offset_is_the_log_of_the_ratio_of_scores_on_demand():
    batch = pairs([3.0], [-2.0], scores=([4.0], [1.0]))
    found = losses("odpo", batch, beta=0.1, alpha=0.5, offset="score_ratio")
    assert found == pytest.approx([math.log1p(math.exp(-(0.5 - 0.5 * math.log(4))))], rel=1e-12)


def test_gap_of_one_is_dpo_and_a_smaller_one_asks_for_less():
    less, same, more = losses("odpo", pairs([3.0] * 3, [-2.0] * 3, scores=([-1.5, -1.0, 3.0], [-2.0] * 3)), beta=0.1)
    assert [same] == losses("dpo", pairs([3.0], [-2.0]), beta=0.1)
    assert less < same < more


@pytest.mark.parametrize("offset", ["score_gap", "score_ratio"])
def test_ties_and_reversed_scores_are_refused_by_row(offset):
    batch = pairs([1.0] * 4, [0.0] * 4, scores=([2.0, 1.0, 3.0, 1.0], [1.0, 1.0, 1.0, 2.0]))
    for use in (losses, slopes):
        with pytest.raises(ValueError, match=r"loss odpo: rows \[1, 3\] of the batch score the chosen completion no "):
            use("odpo", batch, offset=offset)


def test_missing_number_among_the_scores_is_refused():
    with pytest.raises(ValueError, match=r"rows \[0\]"):
        losses("odpo", pairs([1.0], [0.0], scores=([float("nan")], [1.0])))


def test_ratio_of_scores_that_are_not_positive_is_refused():
    batch = pairs([1.0] * 3, [0.0] * 3, scores=([2.0, 1.0, -1.0], [1.0, 0.0, -2.0]))
    assert all(map(math.isfinite, losses("odpo", batch)))
    with pytest.raises(ValueError, match=r"rows \[1, 2\] of the batch hold a score that is not positive"):
        losses("odpo", batch, offset="score_ratio")


def test_unknown_offset_is_refused():
    with pytest.raises(ConfigError, match="offset = 'log'; it should be 'score_gap' or 'score_ratio'"):
        get_loss("odpo", offset="log")
