"""The settings of short runs, the same in one process and in two."""

from __future__ import annotations

from itertools import product

import torch

import prefopt
from prefopt.config import AdapterConfig, TrainingConfig
from prefopt.engine.adapted import base_of
from prefopt.engine.adapters import Adapter
from prefopt.engine.logps import Scorer
from prefopt.training.trainer import Trainer
from tests.engine.rows import random_rows
from tests.models import tiny_model

TRAINING = {
    "batch_size": 4,
    "tokens_per_microbatch": 60,
    "learning_rate": 1e-3,
    "optimizer": "sgd",
    "max_steps": 4,
    "scheduler": "linear",
    "warmup_steps": 1,
}
CASES = list(product(("dpo", "kto"), ("float64", "float32"), ("full", "lora")))
_LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}


def case_trainer(loss, dtype, weights, wrap=None, *, reference=None, moving=None, **changed):
    """Twenty steps of a small model; `wrap` shards it, `changed` are settings of the training."""
    policy, other = (tiny_model("llama", seed=seed, dtype=getattr(torch, dtype)) for seed in (0, 1))
    if weights == "lora":
        Adapter(AdapterConfig(**_LORA)).attach(policy, seed=0)
        other = base_of(policy)  # the same weights in memory, while one process holds them all
    policy = Scorer(policy)
    training = TRAINING | {"max_steps": 20, "optimizer": "adamw", "batch_size": 5, "scheduler": "cosine"} | changed
    return Trainer(
        policy if wrap is None else wrap(policy),
        reference or Scorer(other),
        prefopt.get_loss(loss),
        random_rows("pairs", 13),
        TrainingConfig(**training),
        moving=moving,
    )


def metrics_of(trainer):
    steps = []
    trainer.run(lambda step: steps.append(step.metrics))
    return steps


def curve(steps):
    """What two runs of the same steps have in common."""
    return [[step[name] for name in ("loss", "grad_norm", "reward_margin", "learning_rate")] for step in steps]
