"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from prefopt.config import TrainingConfig
from prefopt.errors import ConfigError


def build_optimizer(parameters: Iterable[nn.Parameter], training: TrainingConfig) -> Optimizer:
    """The optimiser of that name with its own defaults, without weight decay.

    `adafactor` keeps one number a row and a column of each matrix instead of one a weight. `adamw_8bit` and
    `adamw_4bit` hold both moments in so many bits, in blocks of 256 and 128 weights; tensors of fewer than 4096 weights
    stay in float32.

    The state of each can be saved with `torch.save` and read with `weights_only=True`. A learning rate may be a tensor.

    Raises:
        ConfigError: torchao is not installed.

    Source:
        Shazeer, Stern, Adafactor, arXiv 1804.04235; Dettmers et al., 8-bit Optimizers via Block-wise Quantization,
        arXiv 2110.02861; Li, Chen, Zhu, Memory Efficient Optimizers with 4-bit States, arXiv 2309.01507.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    rate = training.learning_rate
    if training.optimizer == "adamw":
        return torch.optim.AdamW(trainable, lr=rate, weight_decay=0.0, fused=True)
    if training.optimizer == "rmsprop":
        return torch.optim.RMSprop(trainable, lr=rate)
    if training.optimizer == "adafactor":
        return torch.optim.Adafactor(trainable, lr=rate, weight_decay=0.0)
    if training.optimizer == "sgd":
        return torch.optim.SGD(trainable, lr=rate)
    kind = _low_bit(training.optimizer)
    if all(parameter.device.type == "cpu" for parameter in trainable):
        kind = type(kind.__name__, (_Uncompiled, kind), {})
    optimizer: Optimizer = kind(trainable, lr=rate, weight_decay=0.0)
    return optimizer


def build_scheduler(optimizer: Optimizer, training: TrainingConfig, steps: int) -> LRScheduler:
    """The schedule of that name in transformers, over `steps` optimiser steps."""
    scheduler: LRScheduler = get_scheduler(
        training.scheduler, optimizer, num_warmup_steps=training.warmup_steps, num_training_steps=steps
    )
    return scheduler


def check_optimizer(training: TrainingConfig) -> None:
    """Refuse an optimiser that is not installed, before anything loads.

    Raises:
        ConfigError: torchao is not installed.
    """
    if training.optimizer in ("adamw_8bit", "adamw_4bit"):
        _low_bit(training.optimizer)


def _low_bit(name: str) -> type[Any]:
    try:
        from torchao.optim import AdamW4bit, AdamW8bit  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ConfigError(f"training.optimizer {name!r} needs torchao; pip install 'prefopt[torchao]'") from error
    found: type[Any] = AdamW8bit if name == "adamw_8bit" else AdamW4bit
    return found


class _Uncompiled:
    """Keeps torchao from compiling each step, which on a CPU takes a C++ compiler and a minute and gains little."""

    def step(self, closure: Any = None) -> Any:
        with torch.compiler.set_stance("force_eager"):
            return super().step(closure)  # type: ignore[misc]
