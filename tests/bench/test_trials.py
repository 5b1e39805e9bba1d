import numpy as np
import pytest

from prefopt.bench.trials import draw_trials

RANGES = {"learning_rate": (0.001, 1.0), "label_smoothing": (0.0, 0.4)}


def test_trials_stay_within_their_ranges_and_fill_them():
    trials = draw_trials(RANGES, 16)
    for name, (low, high) in RANGES.items():
        values = np.array([trial[name] for trial in trials])
        assert ((values >= low) & (values <= high)).all()
    # each sixteenth of a range holds one trial, on a log scale where the range is above 0
    rates = np.log(np.array([trial["learning_rate"] for trial in trials]) / 0.001) / np.log(1000)
    assert sorted((rates * 16).astype(int)) == list(range(16))
    smoothing = np.array([trial["label_smoothing"] for trial in trials]) / 0.4
    assert sorted((smoothing * 16).astype(int)) == list(range(16))


def test_the_same_ranges_give_the_same_trials():
    assert draw_trials(RANGES, 8) == draw_trials(RANGES, 8)


def test_all_methods_try_the_same_learning_rates():
    alone = draw_trials({"learning_rate": (0.001, 1.0)}, 8)
    assert [trial["learning_rate"] for trial in alone] == [t["learning_rate"] for t in draw_trials(RANGES, 8)]


@pytest.mark.parametrize("num_trials", [1, 3, 5, 16])
def test_any_number_of_trials_can_be_had(num_trials):
    assert len(draw_trials(RANGES, num_trials)) == num_trials


def test_what_has_nothing_to_tune_has_one_trial():
    assert draw_trials({}, 16) == [{}]
