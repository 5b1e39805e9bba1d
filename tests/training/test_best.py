from __future__ import annotations

import json

import pytest

from prefopt.engine.ranks import ALONE
from prefopt.training.best import Best


def saving(text):
    def save(folder):
        folder.mkdir(parents=True)
        (folder / "model.txt").write_text(text)

    return save


@pytest.mark.parametrize(
    ("measure", "values", "best"), [("loss", [0.7, 0.5, 0.6, 0.5], 1), ("reward_accuracy", [0.4, 0.6, 0.5], 1)]
)
def test_the_first_of_the_best_stays(tmp_path, measure, values, best):
    kept = Best(tmp_path / "best", measure, ALONE)
    for number, value in enumerate(values):
        kept.offer(number, {measure: value}, saving(str(number)))
    assert (tmp_path / "best" / "model.txt").read_text() == str(best)
    assert json.loads((tmp_path / "best" / "best.json").read_text()) == {"step": best, measure: values[best]}
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_nothing_is_kept_unasked_or_unmeasured(tmp_path):
    Best(tmp_path / "best", None, ALONE).offer(1, {"loss": 0.5}, saving("x"))
    Best(tmp_path / "best", "reward_accuracy", ALONE).offer(1, {"loss": 0.5}, saving("x"))
    assert not list(tmp_path.iterdir())


def test_a_death_while_saving_leaves_the_one_before(tmp_path):
    kept = Best(tmp_path / "best", "loss", ALONE)
    kept.offer(1, {"loss": 0.7}, saving("good"))

    def dies(folder):
        saving("half")(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept.offer(2, {"loss": 0.6}, dies)
    assert (tmp_path / "best" / "model.txt").read_text() == "good"
    kept.offer(3, {"loss": 0.5}, saving("better"))
    assert (tmp_path / "best" / "model.txt").read_text() == "better"


def test_a_run_that_goes_on_knows_what_was_best(tmp_path):
    kept = Best(tmp_path / "best", "loss", ALONE)
    kept.offer(3, {"loss": 0.7}, saving("three"))
    before = kept.state
    kept.offer(6, {"loss": 0.4}, saving("six"))  # after the last checkpoint, as the last evaluation is
    again = Best(tmp_path / "best", "loss", ALONE)
    again.go_on(6, before)
    assert again.value == 0.4
    earlier = Best(tmp_path / "best", "loss", ALONE)
    earlier.go_on(4, before)  # step 6 is yet to come again
    assert earlier.value == 0.7


def test_another_measure_begins_anew(tmp_path):
    kept = Best(tmp_path / "best", "loss", ALONE)
    kept.offer(3, {"loss": 0.7}, saving("three"))
    again = Best(tmp_path / "best", "reward_accuracy", ALONE)
    again.go_on(3, kept.state)
    assert again.value is None
