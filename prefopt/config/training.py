"""The section `training`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from prefopt.section import Section


class TrainingConfig(Section):
    """The optimisation."""

    batch_size: int = Field(64, ge=1)
    """Rows per optimiser step, as read: before pairs are split or rankings expanded."""
    tokens_per_microbatch: int = Field(8192, ge=2)
    """Tokens computed at once. Memory and speed follow it; the result does not, beyond rounding."""
    optimizer: Literal["adamw", "rmsprop", "sgd", "adafactor", "adamw_8bit", "adamw_4bit"] = "adamw"
    """torch's optimisers with their defaults, without weight decay; adafactor holds less state, and torchao's
    adamw_8bit and adamw_4bit hold it in fewer bits (they need prefopt[torchao])."""
    learning_rate: float = Field(1e-6, gt=0, allow_inf_nan=False)
    """Peak learning rate."""
    scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    """Learning rate over the steps, by transformers' name."""
    warmup_steps: int = Field(0, ge=0)
    """Steps in which the learning rate rises from 0."""
    max_grad_norm: float | None = Field(1.0, gt=0, allow_inf_nan=False)
    """Gradients of a larger L2 norm are scaled down to it; null: off."""
    epochs: float = Field(1.0, gt=0, le=1e6, allow_inf_nan=False)
    """Passes over the training rows."""
    max_steps: int | None = Field(None, ge=1)
    """Take this many optimiser steps, whatever `epochs` says."""
    stop_on_divergence: bool = False
    """Stop, and keep the weights, when the run has diverged: see `prefopt.training.health`."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the row order and of everything else that draws."""
