"""Run by `torchrun` in two gloo processes: gradients on two ranks against one, for every loss; JSON into argv[1]."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import prefopt
from prefopt.config import TrainingConfig
from prefopt.engine.accumulation import accumulate
from prefopt.engine.logps import Scorer
from prefopt.engine.ranks import ALONE, Ranks
from prefopt.training.trainer import Trainer
from tests.engine.rows import random_rows, readable
from tests.models import tiny_model
from tests.training.runs import TRAINING

BUDGETS = (10**6, 50, 21)


def gathered(parameter):
    grad = parameter.grad
    return grad.full_tensor() if hasattr(grad, "full_tensor") else grad


def gradient(policy, reference, loss, rows, budget, ranks):
    policy.zero_grad()
    result = accumulate(policy, reference, loss, rows, tokens_per_microbatch=budget, ranks=ranks)
    grads = [gathered(parameter) for parameter in policy.parameters() if parameter.grad is not None]
    return result.loss, torch.cat([grad.flatten() for grad in grads]).double()


def wrapped(how, scorer, mesh):
    scorer = copy.deepcopy(scorer)
    if how.startswith("ddp"):
        return DistributedDataParallel(scorer)
    layers = scorer.model.base_model
    for layer in getattr(layers, "layers", None) or layers.h:
        fully_shard(layer, mesh=mesh)
    return fully_shard(scorer, mesh=mesh)


def equals(row):
    """The row with equal scores: completions that make no pair."""
    alike = tuple(dataclasses.replace(own, score=0.0) for own in row.completions)
    return dataclasses.replace(row, number=99, prompt=(*row.prompt, 7), completions=alike)


def gradients(ranks):
    """Everything for the first loss of each set of needs; for its likes, one way of many."""
    registry = prefopt.load_registry()
    first = {str(registry.losses[name].needs): name for name in sorted(registry.losses, reverse=True)}
    found = {}
    # One for all: a process group that is collected on one rank closes connections that the other may still use.
    mesh = init_device_mesh("cpu", (2,))
    for architecture, dtype in (("gpt2", torch.float64), ("llama", torch.float32)):
        policy, reference = (Scorer(tiny_model(architecture, seed=seed, dtype=dtype)) for seed in (0, 1))
        plain = Scorer(copy.deepcopy(policy.model), packed=False, chunked_head=False)
        for how, scorer in (("ddp", policy), ("fsdp2", policy), ("ddp plain", plain)):
            spread = wrapped(how, scorer, mesh)
            for name in sorted(registry.losses):
                loss = registry.loss(name)
                telling = name in first.values()
                if not telling and (how, dtype) != ("ddp", torch.float64):
                    continue
                kinds = [kind for kind in ("pairs", "labels", "rankings") if readable(kind, loss)]
                for kind, num_rows in [*((kind, 8) for kind in kinds), (kinds[0], 1)][: None if telling else 1]:
                    rows = random_rows(kind, num_rows)
                    if kind == "rankings" and "rankings" not in loss.needs.rows:
                        rows.append(equals(rows[0]))
                    alone, truth = gradient(policy, reference, loss, rows, 10**6, ALONE)
                    for budget in BUDGETS if telling else BUDGETS[1:2]:
                        value, grad = gradient(spread, reference, loss, rows, budget, ranks)
                        case = f"{how} {dtype} {name} {num_rows} {kind} budget {budget}"
                        gap = float((grad - truth).norm() / truth.norm().clamp(min=1e-12))
                        found[case] = [gap, abs(value - alone) / max(abs(alone), 0.05)]
    return found


def losses():
    policy, reference = (Scorer(tiny_model("llama", seed=seed)) for seed in (0, 1))
    steps = []
    training = TrainingConfig(**TRAINING)
    Trainer(policy, reference, prefopt.get_loss("kto"), random_rows("pairs", 10), training).run(
        lambda step: steps.append(step.metrics)
    )
    return [[step["loss"], step["grad_norm"], step["reward_margin"], step["learning_rate"]] for step in steps]


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    found = {"gradients": gradients(ranks), "steps": losses()}
    Path(sys.argv[1] + str(ranks.index)).write_text(json.dumps(found))
    dist.destroy_process_group()


main()
