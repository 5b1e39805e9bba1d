"""What makes robust DPO robust: its mean over flipped labels is the loss under the true ones."""

import pytest
from gap_pairs import losses, pairs, slopes

from prefopt import ConfigError, get_loss


@pytest.mark.parametrize("label_smoothing", [0.1, 0.3, 0.45])
def test_mean_over_flipped_labels_is_the_loss_of_dpo(label_smoothing):
    hyperparameters = {"beta": 0.1, "label_smoothing": label_smoothing}
    kept = losses("robust", pairs([3.0], [-2.0]), **hyperparameters)[0]
    flipped = losses("robust", pairs([-2.0], [3.0]), **hyperparameters)[0]
    mean = (1 - label_smoothing) * kept + label_smoothing * flipped
    assert [mean] == pytest.approx(losses("dpo", pairs([3.0], [-2.0]), beta=0.1), rel=1e-12)


def test_loss_has_no_bottom():
    low, lower = losses("robust", pairs([100.0, 10_000.0], [0.0, 0.0]), beta=1.0, label_smoothing=0.1)
    assert low == pytest.approx(-0.1 * 100 / 0.8)
    assert lower == pytest.approx(-0.1 * 10_000 / 0.8)


def test_right_pair_keeps_its_pull():
    pull = slopes("robust", pairs([10_000.0], [0.0]), beta=1.0, label_smoothing=0.1)[0]
    assert pull == pytest.approx([-0.1 / 0.8], rel=1e-12)


def test_one_half_is_refused_before_it_divides_by_zero():
    with pytest.raises(ConfigError, match=r"label_smoothing = 0\.5; it must be a number .* less than 0\.5"):
        get_loss("robust", label_smoothing=0.5)
