from __future__ import annotations

import json
from statistics import fmean

from prefopt.report import read_runs
from prefopt.report.tables import differences, different_units, summary
from tests.report.runs import write_run


def texts(lines):
    return {line.name: line.texts for line in lines}


def test_numbers_at_the_end_are_means_of_the_last_tenth(tmp_path):
    runs = read_runs([write_run(tmp_path / "a", num_steps=60)])
    found = texts(summary(runs))
    assert found["loss"] == (f"{fmean(step['loss'] for step in runs[0].steps[-6:]):.4f}",)
    assert found["held-out accuracy"] == ("0.800 [0.740, 0.860]",)
    assert found["time"] == ("1 min 15 s",)
    assert found["peak memory"] == ("1.50 GiB",)


def test_only_settings_that_differ_are_listed(tmp_path):
    runs = read_runs(
        [write_run(tmp_path / "a"), write_run(tmp_path / "b", loss={"name": "dpo", "beta": 0.5}, learning_rate=3e-6)]
    )
    assert texts(differences(runs)) == {"loss.beta": ("", "0.5"), "training.learning_rate": ("1e-06", "3e-06")}


def test_units_differ_with_the_loss_and_with_its_settings(tmp_path):
    same = [write_run(tmp_path / "a"), write_run(tmp_path / "b", learning_rate=3e-6)]
    assert not different_units(read_runs(same))
    assert different_units(read_runs([*same, write_run(tmp_path / "c", loss="simpo")]))
    assert different_units(read_runs([*same, write_run(tmp_path / "d", loss={"name": "dpo", "beta": 0.5})]))


def test_the_main_numbers_of_evaluate_are_shown(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "evaluation.json").write_text(json.dumps({"win_rate": {"rate": 0.625, "num": 8}, "threads": 2}))
    found = texts(summary(read_runs([folder])))
    assert found["win rate"] == ("0.625",)
    assert "KL a token, on the data" not in found


def test_a_run_that_is_not_finished_says_how_far_it_is(tmp_path):
    found = texts(summary(read_runs([write_run(tmp_path / "a", num_steps=30, finished=False)])))
    assert found["steps"] == ("30 of 60, not finished",)
    assert found["peak memory"] == ("1.40 GiB",)
