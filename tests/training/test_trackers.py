from __future__ import annotations

import importlib.util
import json
import sys

import pytest

import prefopt
from prefopt.config import TrainingConfig, parse_config
from prefopt.engine.logps import Scorer
from prefopt.errors import ConfigError
from prefopt.training.output import TENSORBOARD, TRACKER_IDS, MetricsLog
from prefopt.training.trackers import Trackers, flat, numbers
from prefopt.training.trainer import Trainer
from prefopt.watcher import Watcher
from tests.engine.rows import random_rows
from tests.models import tiny_model

STEPS = [
    {"step": 1, "loss": 0.7, "learning_rate": 1e-3, "num_rows": 4},
    {
        "step": 2,
        "loss": 0.25,
        "learning_rate": 5e-4,
        "num_rows": 3,
        "evaluation": {"loss": 0.5, "reward_accuracy_interval": [0.25, 0.75]},
    },
]


class Listener(Watcher):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def config(tmp_path, *trackers, **tracking):
    section = {"trackers": list(trackers), **tracking} if trackers else None
    return parse_config(
        {
            "model": "some/model",
            "data": {"train": "rows.jsonl"},
            "loss": "dpo",
            "tracking": section,
            "output_dir": str(tmp_path / "out"),
        }
    )


def logged(settings, steps, resumed_from_step=None):
    listener = Listener()
    with Trackers(settings, resumed_from_step, listener) as trackers:
        for metrics in steps:
            trackers.log(metrics, metrics["step"])
    assert listener.lines == []
    assert trackers.failed == {}


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


# tensorboard, for real


@needs("tensorboard")
def test_tensorboard_holds_the_numbers_of_every_step(tmp_path):
    logged(config(tmp_path, "tensorboard"), STEPS)
    found = events(tmp_path / "out" / TENSORBOARD / "out")
    assert {tag: [step for step, _ in values] for tag, values in found.items()} == {
        "loss": [1, 2],
        "learning_rate": [1, 2],
        "num_rows": [1, 2],
        "evaluation/loss": [2],
    }
    for metrics in STEPS:
        for name, value in numbers(metrics).items():
            assert dict(found[name])[metrics["step"]] == pytest.approx(value, rel=1e-7)  # float32 on disk


@needs("tensorboard")
def test_tensorboard_keeps_the_settings_of_the_run(tmp_path):
    logged(config(tmp_path, "tensorboard", name="mine"), STEPS)
    (settings,) = (tmp_path / "out" / TENSORBOARD / "mine").glob("*/hparams.yml")
    assert "loss.name: dpo" in settings.read_text()


@needs("tensorboard")
def test_a_resumed_run_goes_on_in_tensorboard_and_what_is_taken_again_is_replaced(tmp_path):
    settings = config(tmp_path, "tensorboard")
    logged(settings, [{"step": step, "loss": float(step)} for step in (1, 2, 3, 4)])
    logged(settings, [{"step": step, "loss": 10.0 * step} for step in (3, 4, 5)], resumed_from_step=2)
    found = events(tmp_path / "out" / TENSORBOARD / "out")
    assert found["loss"] == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0), (5, 50.0)]


@needs("tensorboard")
def test_tensorboard_agrees_with_metrics_jsonl_of_a_run(tmp_path):
    policy, reference = (Scorer(tiny_model("llama")) for _ in range(2))
    loss = prefopt.get_loss("dpo")
    training = TrainingConfig(batch_size=4, max_steps=5, learning_rate=1e-3)
    trainer = Trainer(policy, reference, loss, random_rows("pairs", 10), training)
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log, Trackers(config(tmp_path, "tensorboard"), None) as trackers:

        def after_step(step):
            log.write(step.metrics)
            trackers.log(step.metrics, step.number)

        trainer.run(after_step)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = events(tmp_path / "out" / TENSORBOARD / "out")
    assert len(lines) == 5
    assert set(found) == set().union(*lines) - {"step"}
    for name, points in found.items():
        written = [(line["step"], line[name]) for line in lines if name in line]
        assert [step for step, _ in points] == [step for step, _ in written]
        assert [value for _, value in points] == pytest.approx([value for _, value in written], rel=1e-6), name


# trackio and mlflow, where they are installed


@needs("trackio")
def test_trackio_holds_the_numbers_and_a_resumed_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    settings = config(tmp_path, "trackio", project="tests", name="mine")
    logged(settings, STEPS)
    logged(settings, [{"step": 3, "loss": 0.125}], resumed_from_step=2)
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = trackio.Api().runs("tests")
    assert run.name == "mine"
    found = SQLiteStorage.get_logs("tests", "mine")
    assert [(each["step"], each["loss"]) for each in found] == [(1, 0.7), (2, 0.25), (3, 0.125)]


@needs("mlflow")
def test_mlflow_holds_the_numbers_and_a_resumed_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    settings = config(tmp_path, "mlflow", project="tests", name="mine")
    (tmp_path / "out").mkdir()
    logged(settings, STEPS)
    logged(settings, [{"step": 3, "loss": 0.125}], resumed_from_step=2)
    from mlflow import MlflowClient

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert run.info.run_name == "mine"
    assert run.data.params["loss.name"] == "dpo"
    assert [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "loss")] == [
        (1, 0.7),
        (2, 0.25),
        (3, 0.125),
    ]
    assert json.loads((tmp_path / "out" / TRACKER_IDS).read_text()) == {"mlflow": run.info.run_id}


# what goes wrong


def test_a_package_that_is_missing_is_said_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"'wandb'.*not installed; `pip install 'prefopt\[wandb\]'`"):
        Trackers(config(tmp_path, "wandb"), None)


@needs("tensorboard")
def test_a_tracker_that_fails_in_the_middle_is_said_once_and_left_out(tmp_path):
    listener = Listener()
    with Trackers(config(tmp_path, "tensorboard"), None, listener) as trackers:
        trackers.log(STEPS[0], 1)
        trackers._open["tensorboard"].tracker._get_file_writer().event_writer._async_writer.close()
        for step in (2, 3, 4):
            trackers.log({"step": step, "loss": 0.5}, step)
    (line,) = listener.lines
    assert line.startswith("tracker tensorboard failed and is left out from here on, metrics.jsonl is not: ")
    assert set(trackers.failed) == {"tensorboard"}
    assert events(tmp_path / "out" / TENSORBOARD / "out")["loss"] == [(1, pytest.approx(0.7))]


@needs("tensorboard")
def test_a_tracker_that_cannot_start_does_not_stop_the_run(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / TENSORBOARD).write_text("a file where the folder should be")
    listener = Listener()
    with Trackers(config(tmp_path, "tensorboard"), None, listener) as trackers:
        trackers.log(STEPS[0], 1)
    assert len(listener.lines) == 1
    assert "tracker tensorboard failed" in listener.lines[0]


def test_no_section_no_tracker(tmp_path):
    logged(config(tmp_path), STEPS)
    assert not (tmp_path / "out").exists()


@needs("tensorboard")
def test_other_processes_than_the_first_log_nothing(tmp_path, monkeypatch):
    from accelerate import PartialState

    monkeypatch.setattr(PartialState, "is_main_process", False)
    logged(config(tmp_path, "tensorboard"), STEPS)
    assert not (tmp_path / "out").exists()


def test_only_finite_numbers_go_out():
    metrics = {"step": 3, "loss": 0.5, "kl": float("inf"), "note": "text", "flag": True, "evaluation": {"step": 3}}
    assert numbers(metrics) == {"loss": 0.5, "evaluation/step": 3}


def test_settings_become_values_that_every_tracker_takes(tmp_path):
    found = flat({"a": {"b": [1, {"c": None}]}, "d": "text", "e": True})
    assert found == {"a.b.0": 1, "a.b.1.c": "null", "d": "text", "e": True}
