from __future__ import annotations

import json

import pytest

from prefopt.errors import ConfigError, DataError
from prefopt.report import read_runs
from tests.report.runs import write_run


def test_a_finished_run_has_all_its_steps_and_evaluations_and_no_remark(tmp_path):
    (run,) = read_runs([write_run(tmp_path / "dpo", num_steps=60, every=20)])
    assert [step["step"] for step in run.steps] == list(range(1, 61))
    assert [step for step, _ in run.held_out] == [0, 20, 40, 60]
    assert (run.label, run.loss, run.num_planned, run.remarks) == ("dpo", "dpo", 60, ())


def test_a_killed_run_is_shown_with_what_there_is(tmp_path):
    (run,) = read_runs([write_run(tmp_path / "a", num_steps=30, finished=False, cut=True)])
    assert len(run.steps) == 30
    assert run.num_planned == 60
    assert [remark.split(":")[0] for remark in run.remarks] == [
        "no run.json",
        "the last line of metrics.jsonl is cut short and left out",
    ]


def test_a_folder_without_a_config_says_that_settings_are_not_compared(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "config.resolved.yaml").unlink()
    (run,) = read_runs([folder])
    assert run.remarks == ("no config.resolved.yaml: its settings are not compared",)
    assert run.loss == "dpo"


def test_what_a_run_warned_of_is_kept(tmp_path):
    (run,) = read_runs([write_run(tmp_path / "a", warnings=["step 20: something"])])
    assert run.remarks == ("step 20: something",)


def test_of_a_step_taken_twice_the_later_one_counts(tmp_path):
    folder = write_run(tmp_path / "a", num_steps=5)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 3, "loss": 9.0}) + "\n")
    (run,) = read_runs([folder])
    assert [step["step"] for step in run.steps] == [1, 2, 3, 4, 5]
    assert run.steps[2]["loss"] == 9.0


def test_labels_are_the_shortest_ends_that_differ_and_a_folder_named_twice_is_read_once(tmp_path):
    folders = [write_run(tmp_path / name / "out") for name in ("a", "b")]
    assert [run.label for run in read_runs([*folders, folders[0]])] == ["a/out", "b/out"]


def test_a_folder_that_is_not_there_is_said_with_the_nearest(tmp_path):
    write_run(tmp_path / "simpo")
    with pytest.raises(ConfigError, match=r"there is no folder '.*simp'; did you mean '.*simpo'\?"):
        read_runs([tmp_path / "simp"])


def test_a_folder_without_metrics_names_the_runs_within(tmp_path):
    write_run(tmp_path / "a")
    with pytest.raises(DataError, match=r"holds no metrics.jsonl; the runs in it are a$"):
        read_runs([tmp_path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no metrics.jsonl; `prefopt train CONFIG` writes one"):
        read_runs([tmp_path / "empty"])


@pytest.mark.parametrize("damage", ["not json", "[1]", "3", "{}"])
def test_a_damaged_line_is_named(tmp_path, damage):
    folder = write_run(tmp_path / "a", num_steps=3)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([lines[0], damage, *lines[1:]]) + "\n")
    with pytest.raises(DataError, match="metrics.jsonl, line 2: not the metrics of a step"):
        read_runs([folder])


def test_no_step_yet(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "metrics.jsonl").write_text('{"step": 1, "lo')
    with pytest.raises(DataError, match="holds no step yet"):
        read_runs([folder])


@pytest.mark.parametrize("name", ["run.json", "evaluation.json"])
def test_a_damaged_record_is_named(tmp_path, name):
    folder = write_run(tmp_path / "a")
    (folder / name).write_text("{")
    with pytest.raises(DataError, match=f"{name}' is no JSON"):
        read_runs([folder])
    (folder / name).write_text("[]")
    with pytest.raises(DataError, match=f"{name}' holds no JSON object"):
        read_runs([folder])
