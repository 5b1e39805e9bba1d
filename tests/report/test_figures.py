from __future__ import annotations

import json
from statistics import fmean

import pytest

from prefopt.report import figures as module
from prefopt.report import read_runs
from prefopt.report.figures import figures
from prefopt.report.panels import panels
from tests.report.runs import write_run


def test_the_lines_are_the_numbers_of_the_file(tmp_path):
    runs = read_runs([write_run(tmp_path / "a", num_steps=40)])
    found = figures(runs)["runs"][0]
    for name, values in found["lines"].items():
        assert values == pytest.approx([step[name] for step in runs[0].steps], rel=1e-4), name
    assert found["x"]["step"] == list(range(1, 41))
    assert found["x"]["rows"] == list(range(16, 641, 16))
    assert found["x"]["seconds"][-1] == pytest.approx(sum(step["step_seconds"] for step in runs[0].steps), abs=0.01)


def test_evaluations_stand_at_their_steps_rows_and_seconds(tmp_path):
    found = figures(read_runs([write_run(tmp_path / "a", num_steps=60, every=20)]))["runs"][0]["held_out"]
    assert found["x"]["step"] == [0, 20, 40, 60]
    assert found["x"]["rows"] == [0, 320, 640, 960]
    assert found["lines"]["reward_accuracy"]["y"] == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert found["lines"]["reward_accuracy"]["interval"][1] == pytest.approx([0.54, 0.66])


def test_a_long_run_shows_means_of_neighbouring_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_POINTS", 10)
    runs = read_runs([write_run(tmp_path / "a", num_steps=25)])
    found = figures(runs)["runs"][0]
    assert found["x"]["step"] == [3, 6, 9, 12, 15, 18, 21, 24, 25]
    losses = [step["loss"] for step in runs[0].steps]
    assert found["lines"]["loss"][0] == pytest.approx(fmean(losses[:3]), rel=1e-4)
    assert found["lines"]["loss"][-1] == pytest.approx(losses[-1], rel=1e-4)


def test_what_is_not_a_finite_number_leaves_a_gap(tmp_path):
    folder = write_run(tmp_path / "a", num_steps=2)
    lines = [json.dumps({"step": 1, "loss": None}), '{"step": 2, "loss": Infinity}', '{"step": 3, "loss": 0.5}']
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    found = figures(read_runs([folder]))["runs"][0]
    assert found["lines"]["loss"] == [None, None, 0.5]


def test_panels_are_those_that_a_run_has_something_for(tmp_path):
    simpo, kto = (read_runs([write_run(tmp_path / loss, loss=loss)]) for loss in ("simpo", "kto"))
    titles = [[panel.title for panel in panels(runs)] for runs in (simpo, kto)]
    assert "displacement" not in titles[0]
    assert "displacement" in titles[1]
    assert titles[1][-1] == "kl", "what a loss measures itself comes last"
    assert titles[0][:3] == ["held-out loss", "held-out reward accuracy", "held-out reward margin"]
    assert "num pairs" not in " ".join(titles[0])
