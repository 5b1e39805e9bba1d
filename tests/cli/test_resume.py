"""`prefopt train --resume`, as it is met by who uses it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from prefopt.training.costs import step_costs


@pytest.fixture
def pairs(write_rows, pair_rows):
    return write_rows(pair_rows)


@pytest.fixture
def config(write_config, pairs):
    return write_config(
        pairs,
        data={"evaluation": 3},
        evaluation={"every_steps": 4},
        checkpoints={"every_steps": 2, "keep_best": "loss"},
        training={"max_steps": 8, "batch_size": 3, "scheduler": "cosine"},
    )


def state(folder):
    """What a run must have in common with an undisturbed one."""
    costs = step_costs(1, 1.0)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    weights = {name: load_file(folder / name) for name in ("model.safetensors", "best/model.safetensors")}
    return [{key: value for key, value in line.items() if key not in costs} for line in lines], weights


def assert_same(one, other):
    assert one[0] == other[0]
    for name, tensors in one[1].items():
        for key, value in tensors.items():
            assert torch.equal(value, other[1][name][key]), (name, key)


def killed_at(folder, step):
    """What kill -9 leaves when it comes in the middle of the step after `step` and of a line."""
    for name in ("run.json", "model.safetensors"):
        (folder / name).unlink()
    for checkpoint in (folder / "checkpoints").iterdir():
        if int(checkpoint.name.removeprefix("step-")) > step:
            shutil.rmtree(checkpoint)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[: step + 1]) + lines[step + 1][:20])


@pytest.mark.parametrize("loss", ["dpo", "kto", "bco", "beta_dpo"])
def test_a_run_goes_on_as_if_nothing_had_happened(prefopt, config, tmp_path, loss):
    every = ["checkpoints.keep_last=null", f"loss={loss}"]
    prefopt("train", config, *every, f"output_dir={tmp_path / 'whole'}")
    prefopt("train", config, *every)
    killed_at(tmp_path / "out", 4)
    outcome = prefopt("train", config, *every, "--resume")
    assert outcome.code == 0, outcome.err
    assert "resumed after step 4 from" in outcome.err
    assert_same(state(tmp_path / "whole"), state(tmp_path / "out"))
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("whole", "out")]
    assert [record["resumed_after_steps"] for record in records] == [[], [4]]
    assert records[0]["evaluation"] == records[1]["evaluation"]


def test_kill_9_and_resume(write_config, pairs, tmp_path):
    """A real process, killed as soon as it has kept a checkpoint."""
    long = {"max_steps": 400, "batch_size": 3}
    config = write_config(pairs, checkpoints={"every_steps": 1, "keep_last": None}, training=long)
    command = [sys.executable, "-m", "prefopt", "train", str(config), "--resume"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not (tmp_path / "out" / "checkpoints" / "step-00000003").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    step = max(int(path.name.removeprefix("step-")) for path in (tmp_path / "out" / "checkpoints").glob("step-*"))
    steps = f"training.max_steps={step + 2}"
    for output, flags in ((tmp_path / "out", ["--resume"]), (tmp_path / "whole", [])):
        done = subprocess.run([*command[:5], steps, f"output_dir={output}", *flags], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert ("resumed after step" in done.stderr) == bool(flags)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "whole"))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_sigterm_keeps_a_checkpoint_whatever_the_config_says(write_config, pairs, tmp_path):
    config = write_config(pairs, training={"max_steps": 3000, "batch_size": 3})
    command = [sys.executable, "-m", "prefopt", "train", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out" / "metrics.jsonl").exists() or not (tmp_path / "out" / "metrics.jsonl").stat().st_size:
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "go on with --resume from" in err
    (kept,) = (tmp_path / "out" / "checkpoints").iterdir()
    assert not (tmp_path / "out" / "run.json").exists()
    steps = int(kept.name.removeprefix("step-")) + 1
    done = subprocess.run([*command, "--resume", f"training.max_steps={steps}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_where_nothing_was_kept_a_run_begins(prefopt, config, tmp_path):
    outcome = prefopt("train", config, "--resume")
    assert outcome.code == 0, outcome.err
    assert "resumed" not in outcome.err
    shutil.rmtree(tmp_path / "out" / "checkpoints")
    (tmp_path / "out" / "run.json").unlink()
    outcome = prefopt("train", config, "--resume")
    assert outcome.code == 0, outcome.err
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 8


def test_a_complete_run_stays_as_it_is(prefopt, config, tmp_path):
    prefopt("train", config)
    before = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    outcome = prefopt("train", config, "--resume")
    assert outcome.code == 0, outcome.err
    assert "is complete: all 8 steps are taken" in outcome.err
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == before
    outcome = prefopt("train", config, "--resume", "training.max_steps=10")
    assert outcome.code == 0, outcome.err
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 10


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("training.learning_rate=1", "training.learning_rate was 0.001 and is 1.0"),
        ("training.seed=5", "training.seed was 0 and is 5"),
        ("loss=ipo", "loss.name was 'dpo' and is 'ipo'"),
        ("data.max_length=32", "data.max_length was 64 and is 32"),
    ],
)
def test_another_run_is_not_gone_on_with(prefopt, config, change, told):
    prefopt("train", config)
    error = prefopt("train", config, "--resume", change).error
    assert told in error
    assert "training.max_steps" in error


def test_what_may_change_may(prefopt, config, tmp_path):
    prefopt("train", config)
    killed_at(tmp_path / "out", 6)
    outcome = prefopt(
        "train", config, "--resume", "training.tokens_per_microbatch=128", "checkpoints.every_steps=1", "tracking=null"
    )
    assert outcome.code == 0, outcome.err
    assert "every_steps: 1" in (tmp_path / "out" / "config.resolved.yaml").read_text()


def test_other_rows_are_not_gone_on_with(prefopt, config, pairs, tmp_path):
    prefopt("train", config)
    killed_at(tmp_path / "out", 6)
    pairs.write_text(pairs.read_text().replace("I like", "They love"))
    assert "belongs to another data than this run reads" in prefopt("train", config, "--resume").error


def test_fewer_steps_than_were_taken_are_refused(prefopt, config, tmp_path):
    prefopt("train", config)
    killed_at(tmp_path / "out", 6)
    error = prefopt("train", config, "--resume", "training.max_steps=5").error
    assert "was kept after step 6, and the run now ends after step 5" in error


def test_a_damaged_checkpoint_names_the_way_out(prefopt, config, tmp_path):
    prefopt("train", config)
    killed_at(tmp_path / "out", 6)
    path = tmp_path / "out" / "checkpoints" / "step-00000006" / "state.pt"
    path.write_bytes(path.read_bytes()[:100])
    assert "delete it to go on from the one before" in prefopt("train", config, "--resume").error


def test_resume_and_overwrite_contradict_each_other(prefopt, config):
    assert "--overwrite and --resume contradict each other" in prefopt("train", config, "--resume", "--overwrite").error


def test_a_full_disk_stops_the_run_and_leaves_the_last_good_checkpoint(write_config, pairs, tmp_path):
    config = write_config(pairs, checkpoints={"every_steps": 1}, training={"max_steps": 50, "batch_size": 3})
    size = 40_000  # of a file: metrics.jsonl outgrows it after some dozens of steps, the weights at once

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    command = [sys.executable, "-m", "prefopt", "train", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "cannot be written" in line
    assert not list((tmp_path / "out" / "checkpoints").glob("*"))


def test_a_best_model_by_what_is_not_measured_is_refused(prefopt, write_config, write_rows):
    rows = write_rows([{"prompt": f"{one}?", "completion": f" {one}", "label": one % 2 == 0} for one in range(12)])
    config = write_config(rows, data={"evaluation": 4}, evaluation={"every_steps": 1}, loss="kto")
    error = prefopt("train", config, "checkpoints.keep_best=reward_accuracy").error
    assert "checkpoints.keep_best = 'reward_accuracy', but the held-out rows hold no pairs" in error


def test_a_checkpoint_is_no_model_and_the_error_says_what_is(prefopt, config, tmp_path):
    prefopt("train", config)
    error = prefopt("evaluate", config, "--model", tmp_path / "out" / "checkpoints" / "step-00000008").error
    assert "is a checkpoint, which `prefopt train CONFIG --resume` goes on from" in error


def test_a_folder_with_a_checkpoint_names_resume(prefopt, config):
    prefopt("train", config)
    assert "pass --resume to go on after its last checkpoint" in prefopt("train", config).error
