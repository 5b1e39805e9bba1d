"""A run that was killed and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.peers.conftest import python_path
from tests.peers.runs import Trained

LOSSES = ("dpo", "kto", "bco")
NUM_STEPS, KILLED_AFTER = 40, {"dpo": 7, "kto": 12, "bco": 23}


def config(folder, model_folder, rows, loss):
    """AdamW with a schedule and a warm-up, so that there is more to keep than weights."""
    training = {"batch_size": 4, "max_steps": NUM_STEPS, "learning_rate": 1e-3, "tokens_per_microbatch": 128}
    values = {
        "model": str(model_folder),
        "data": {"train": str(rows), "max_length": 64},
        "loss": loss,
        "training": {**training, "scheduler": "cosine", "warmup_steps": 3, "seed": 3},
        "output_dir": str(folder),
    }
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def killed(tmp_path, model_folder, write_rows, pair_rows):
    """One run of each loss, killed while it trains, each at another step."""
    rows = write_rows(pair_rows)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path(), "CUDA_VISIBLE_DEVICES": ""}
    configs = [str(config(tmp_path / loss, model_folder, rows, loss)) for loss in LOSSES]
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("killed_runs.py")), *configs]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        for loss in LOSSES:
            process = int(parent.stdout.readline())
            log = tmp_path / loss / "metrics.jsonl"
            while num_lines(log) < KILLED_AFTER[loss] and Path(f"/proc/{process}").exists():
                time.sleep(0.002)
            os.kill(process, signal.SIGKILL)
        _, told = parent.communicate()
    for loss in LOSSES:
        assert KILLED_AFTER[loss] <= num_lines(tmp_path / loss / "metrics.jsonl") < NUM_STEPS, told[-3000:]
        assert not (tmp_path / loss / "run.json").exists()
    return rows


def num_lines(log):
    return log.read_text().count("\n") if log.exists() else 0


def test_24_a_run_that_was_killed_and_resumed_is_the_uninterrupted_run_bit_for_bit(
    killed, prefopt, model_folder, tmp_path
):
    for loss in LOSSES:
        resumed = prefopt("train", tmp_path / f"{loss}.yaml", "checkpoints.every_steps=5", "--resume")
        assert resumed.code == 0, resumed.err
        whole = prefopt("train", config(tmp_path / f"whole {loss}", model_folder, killed, loss))
        assert whole.code == 0, whole.err
        one, other = (Trained.at(tmp_path / name) for name in (loss, f"whole {loss}"))
        assert one.steps == other.steps
        assert len(one.steps) == NUM_STEPS
        assert set(one.weights) == set(other.weights)
        assert all(torch.equal(weight, other.weights[name]) for name, weight in one.weights.items()), loss
        states = [run.folder / "loss_state.safetensors" for run in (one, other)]
        assert [state.exists() for state in states] == [loss == "bco"] * 2
        if loss == "bco":
            kept, truth = map(load_file, states)
            assert set(kept) == set(truth)
            assert all(torch.equal(kept[name], value) for name, value in truth.items())
