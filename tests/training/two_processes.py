"""Run by `torchrun` in two gloo processes: runs of 20 steps by DDP and FSDP2, what they keep, and a whole `run`.

JSON into argv[1] + rank; argv[2] is a folder to write into, argv[3] a config for `prefopt.run.run`.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import prefopt
from prefopt.config import CheckpointsConfig, load_config
from prefopt.engine.ranks import Ranks, unwrapped
from prefopt.run import run
from prefopt.training.checkpoints import Checkpoints, read_snapshot
from prefopt.training.saving import save_policy
from tests.data.tokenizers import tokenizer
from tests.training.runs import CASES, case_trainer, curve, metrics_of


def sharded(mesh):
    def shard(policy):
        for layer in policy.model.base_model.layers:
            fully_shard(layer, mesh=mesh)
        return fully_shard(policy, mesh=mesh)

    return shard


def kept_and_taken_up(mesh, ranks, folder):
    """The curve of a sharded run whose second half goes on from disk."""
    case = ("dpo", "float64", "full")
    first = case_trainer(*case, wrap=sharded(mesh))
    kept = Checkpoints(folder / "shards", CheckpointsConfig(), ranks)
    steps = []

    def after_step(step):
        steps.append(step.metrics)
        if step.number == 10:
            kept.keep(first.snapshot(), {})

    first.run(after_step)
    second = case_trainer(*case, wrap=sharded(mesh))
    second.restore(read_snapshot(folder / "shards" / "step-00000010", ranks))
    again = metrics_of(second)
    return [curve(steps[10:]), curve(again)]


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    ranks = Ranks.started()
    # One for all: a process group that is collected on one rank closes connections that the other may still use.
    mesh = init_device_mesh("cpu", (2,))
    folder = Path(sys.argv[2])
    words = tokenizer("without_bos", "chatml")
    found = {}
    for how, wrap in (("ddp", None), ("fsdp2", sharded(mesh))):
        for case in CASES:
            trainer = case_trainer(*case, wrap=wrap)
            found[" ".join((how, *case))] = curve(metrics_of(trainer))
            if case[:2] == ("dpo", "float64"):
                save_policy(unwrapped(trainer.policy).model, words, folder / f"{how} {case[2]}", ranks=ranks)
    found["resumed"] = kept_and_taken_up(mesh, ranks, folder)
    config = load_config(sys.argv[3])
    record = run(config, prefopt.get_loss("dpo"))
    found["record"] = {key: record[key] for key in ("num_processes", "num_steps")}
    Path(sys.argv[1] + str(ranks.index)).write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


main()
