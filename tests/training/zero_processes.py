"""Run in two gloo processes: short runs under DeepSpeed ZeRO, what they keep, and a whole `run`.

argv: a DeepSpeed config, a path that JSON goes to with the rank behind it, a folder to write into, a config for
`prefopt.run.run`.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from itertools import product
from pathlib import Path

import torch

import prefopt
from prefopt.config import CheckpointsConfig, ReferenceConfig, load_config
from prefopt.engine.logps import Scorer
from prefopt.engine.ranks import Ranks, unwrapped
from prefopt.errors import ConfigError, NonFiniteLossError
from prefopt.run import run
from prefopt.training.checkpoints import Checkpoints, read_snapshot
from prefopt.training.saving import save_policy
from tests.data.tokenizers import tokenizer
from tests.models import tiny_model
from tests.training.runs import case_trainer, curve, metrics_of

CLIPPED = {"optimizer": "sgd", "max_grad_norm": 0.05, "gradient_checkpointing": True}


def kept_and_taken_up(ranks, folder):
    """The curve and the weights of a run whose second half goes on from disk, beside those of the whole one."""
    case = {"loss": "dpo", "dtype": "float32", "weights": "full"}
    first = case_trainer(**case)
    kept = Checkpoints(folder / "shards", CheckpointsConfig(), ranks)
    steps = []

    def after_step(step):
        steps.append(step.metrics)
        if step.number == 10:
            kept.keep(first.snapshot(), {})

    first.run(after_step)
    second = case_trainer(**case)
    second.restore(read_snapshot(folder / "shards" / "step-00000010", ranks))
    again = metrics_of(second)
    names = ("undisturbed", "resumed")
    for name, trainer in zip(names, (first, second), strict=True):
        save(trainer, folder / name)
    return dict(zip(names, (curve(steps[10:]), curve(again)), strict=True))


def spoil(module, inputs, output):
    if output.requires_grad:
        output.register_hook(lambda gradient: gradient * float("nan"))


def broken(folder):
    """What a gradient that is not finite ends with."""
    trainer = case_trainer("dpo", "float32", "full")
    save(trainer, folder / "whole")
    unwrapped(trainer.policy).model.model.norm.register_forward_hook(spoil)
    try:
        metrics_of(trainer)
    except NonFiniteLossError as error:
        save(trainer, folder / "broken")
        return str(error)
    return "nothing"


def refused(**case):
    try:
        case_trainer("dpo", **({"dtype": "float32", "weights": "full"} | case))
    except ConfigError as error:
        return str(error)
    return "nothing"


def save(trainer, folder):
    words = tokenizer("without_bos", "chatml")
    save_policy(unwrapped(trainer.policy).model, words, folder, ranks=trainer.ranks)


def main():
    os.environ |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": sys.argv[1]}
    # What a launcher's environment says must change nothing.
    os.environ |= {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "3"}
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    ranks = Ranks.started()
    folder = Path(sys.argv[3])
    found = {"curves": {}}
    for loss, weights in product(("dpo", "kto"), ("full", "lora")):
        # The same reference, in weights of its own.
        own = Scorer(tiny_model("llama", seed=0)) if weights == "lora" else None
        trainer = case_trainer(loss, "float32", weights, reference=own)
        found["curves"][f"{loss} {weights}"] = curve(metrics_of(trainer))
        if loss == "dpo":
            save(trainer, folder / weights)
    found["curves"]["clipped"] = curve(metrics_of(case_trainer("dpo", "float32", "full", **CLIPPED)))
    found |= kept_and_taken_up(ranks, folder)
    found["broken"] = broken(folder)
    found["refused"] = {
        "sharing": refused(weights="lora"),
        "moving": refused(moving=ReferenceConfig(update_steps=2)),
        "float64": refused(dtype="float64"),
        "adafactor": refused(optimizer="adafactor"),
    }
    run(load_config(sys.argv[4]), prefopt.get_loss("dpo"))
    Path(sys.argv[2] + str(ranks.index)).write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
