"""Two gloo processes under `torchrun`: the curves of one, what is kept, and a whole run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import prefopt
from prefopt.config import load_config
from prefopt.run import run
from prefopt.training.saving import save_policy
from tests.data.tokenizers import tokenizer
from tests.training.runs import CASES, case_trainer, curve, metrics_of

ROOT = Path(__file__).resolve().parents[2]


def settings(model_folder, rows, out):
    return {
        "model": str(model_folder),
        "data": {"train": str(rows), "evaluation": 3},
        "loss": "dpo",
        "reference": {"mode": "cached"},
        "training": {"batch_size": 4, "learning_rate": 1e-3, "max_steps": 6},
        "evaluation": {"every_steps": 2, "samples": 1, "max_new_tokens": 4},
        "checkpoints": {"every_steps": 3, "keep_best": "loss"},
        "output_dir": str(out),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def rows(folder):
    path = folder / "rows.jsonl"
    words = "red green blue white black yellow brown grey pink".split()
    pairs = [
        {"prompt": f"Tell me about {one}.", "chosen": f" I like {one} a lot", "rejected": f" {one}"} for one in words
    ]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


@pytest.fixture(scope="module")
def two_processes(folder, rows, model_folder):
    """What each of the two found."""
    config = folder / "two.yaml"
    config.write_text(yaml.safe_dump(settings(model_folder, rows, folder / "two")))
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    environment["XDG_CACHE_HOME"] = str(folder / "cache two")
    script = [str(Path(__file__).with_name("two_processes.py")), str(folder / "rank"), str(folder), str(config)]
    done = subprocess.run([*command, *script], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr  # whole: the process that failed first may stand anywhere in it
    return [json.loads((folder / f"rank{rank}").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_the_curve_of_two_processes_is_that_of_one(two_processes, case):
    alone = torch.tensor(curve(metrics_of(case_trainer(*case))))
    close = {"rtol": 1e-9, "atol": 1e-9} if case[1] == "float64" else {"rtol": 1e-3, "atol": 1e-4}
    for found in two_processes:
        for how in ("ddp", "fsdp2"):
            torch.testing.assert_close(torch.tensor(found[" ".join((how, *case))]), alone, **close)


@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
@pytest.mark.parametrize("weights", ["full", "lora"])
def test_what_is_saved_is_the_model_of_one_process(two_processes, folder, how, weights):
    trainer = case_trainer("dpo", "float64", weights)
    metrics_of(trainer)
    save_policy(trainer.policy.model, tokenizer("without_bos", "chatml"), folder / f"alone {weights}")
    name = "adapter_model.safetensors" if weights == "lora" else "model.safetensors"
    alone, together = (load_file(folder / f"{which} {weights}" / name) for which in ("alone", how))
    assert set(alone) == set(together)
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value, rtol=1e-7, atol=1e-9)


def test_shards_are_kept_and_taken_up_bit_for_bit(two_processes, folder):
    for found in two_processes:
        undisturbed, resumed = found["resumed"]
        assert len(undisturbed) == 10
        assert resumed == undisturbed
    names = sorted(path.name for path in (folder / "shards" / "step-00000010").iterdir())
    assert names == [
        "checkpoint.json",
        *(f"state-0000{rank}-of-00002.pt" for rank in (1, 2)),
        *(f"weights-0000{rank}-of-00002.safetensors" for rank in (1, 2)),
    ]


def test_a_whole_run_in_two_processes_leaves_what_one_leaves(two_processes, folder, rows, model_folder):
    path = folder / "one.yaml"
    path.write_text(yaml.safe_dump(settings(model_folder, rows, folder / "one")))
    run(load_config(path), prefopt.get_loss("dpo"))
    one, two = folder / "one", folder / "two"
    written = {str(file.relative_to(one)) for file in one.rglob("*") if file.is_file()}
    assert written == {str(file.relative_to(two)) for file in two.rglob("*") if file.is_file()}
    records = [json.loads((out / "run.json").read_text()) for out in (one, two)]
    assert [record["num_processes"] for record in records] == [1, 2]
    assert records[1]["reference"]["rows_scored"] == 9
    for when in ("before", "after"):
        first, second = (record["evaluation"][when] for record in records)
        assert first["samples"] == second["samples"]
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)
    models = [AutoModelForCausalLM.from_pretrained(out).state_dict() for out in (one, two)]
    for name, value in models[0].items():
        torch.testing.assert_close(models[1][name], value, rtol=1e-3, atol=1e-4)
