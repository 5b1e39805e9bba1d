"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from prefopt.config import TrainingConfig


def build_optimizer(parameters: Iterable[nn.Parameter], training: TrainingConfig) -> Optimizer:
    """AdamW, RMSprop or SGD with torch's defaults, without weight decay."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    rate = training.learning_rate
    if training.optimizer == "adamw":
        return torch.optim.AdamW(trainable, lr=rate, weight_decay=0.0, fused=True)
    if training.optimizer == "rmsprop":
        return torch.optim.RMSprop(trainable, lr=rate)
    return torch.optim.SGD(trainable, lr=rate)


def build_scheduler(optimizer: Optimizer, training: TrainingConfig, steps: int) -> LRScheduler:
    """The schedule of that name in transformers, over `steps` optimiser steps."""
    scheduler: LRScheduler = get_scheduler(
        training.scheduler, optimizer, num_warmup_steps=training.warmup_steps, num_training_steps=steps
    )
    return scheduler
