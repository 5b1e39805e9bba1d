"""Two gloo processes under `torchrun`: DDP and FSDP2 around the same engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import prefopt
from prefopt.config import TrainingConfig
from prefopt.engine.logps import Scorer
from prefopt.engine.ranks import Ranks
from prefopt.errors import ConfigError
from prefopt.training.trainer import Trainer
from tests.engine.rows import random_rows
from tests.models import tiny_model
from tests.training.runs import TRAINING

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What each of the two ranks found."""
    out = tmp_path_factory.mktemp("ranks") / "rank"
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    script = [str(Path(__file__).with_name("two_ranks.py")), str(out)]
    done = subprocess.run([*command, *script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # whole: the rank that failed first may stand anywhere in it
    return [json.loads(Path(f"{out}{rank}").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("how", ["ddp", "fsdp2", "ddp plain"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-8), ("float32", 2e-5)])
def test_the_gradient_on_two_ranks_is_that_on_one(two_ranks, how, dtype, tolerance):
    for found in two_ranks:
        cases = {case: gaps for case, gaps in found["gradients"].items() if case.startswith(f"{how} torch.{dtype}")}
        names = {case.removeprefix(f"{how} ").split()[1] for case in cases}
        assert (
            len(names) == len(prefopt.load_registry().losses) if (how, dtype) == ("ddp", "float64") else len(names) > 9
        )
        worst = max(cases, key=lambda case: cases[case][0])
        assert cases[worst][0] <= tolerance, worst
        assert max(loss for _, loss in cases.values()) <= tolerance


def test_a_trainer_takes_the_same_steps_in_two_processes_as_in_one(two_ranks):
    policy, reference = (Scorer(tiny_model("llama", seed=seed)) for seed in (0, 1))
    steps = []
    rows = random_rows("pairs", 10)
    Trainer(policy, reference, prefopt.get_loss("kto"), rows, TrainingConfig(**TRAINING)).run(
        lambda step: steps.append(step.metrics)
    )
    alone = [[step["loss"], step["grad_norm"], step["reward_margin"], step["learning_rate"]] for step in steps]
    for found in two_ranks:
        torch.testing.assert_close(torch.tensor(found["steps"]), torch.tensor(alone), rtol=1e-4, atol=1e-6)


def test_one_process_gathers_its_own():
    own = torch.arange(3.0)
    assert Ranks().gather(own, [3])[0] is own
    assert Ranks.started() == Ranks(0, 1)


def test_a_process_group_that_was_asked_for_and_not_given_is_an_error(monkeypatch):
    Ranks.started()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="started with 2 processes, but 1 share a process group"):
        Ranks.started()
