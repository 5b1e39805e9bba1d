"""Settings that do nothing in the run they are in, or reach beyond it."""

from __future__ import annotations

from prefopt.config import RunConfig
from prefopt.weighted import Objective


def effects_advice(config: RunConfig, loss: Objective, num_steps: int, num_held_out: int) -> list[str]:
    """A sentence for each such setting.

    Args:
        config: the run's settings.
        loss: the loss they name.
        num_steps: optimiser steps of the run.
        num_held_out: held-out rows.
    """
    return [*_unread(config, loss), *_without_effect(config, num_steps, num_held_out)]


def _unread(config: RunConfig, loss: Objective) -> list[str]:
    """Settings of a reference that the loss does not read."""
    if loss.needs.reference:
        return []
    told = {
        "reference.model is not loaded": config.reference.model is not None,
        "reference.update_steps has no effect": config.reference.update_steps is not None,
        "the store is not used": config.reference.mode == "cached",
    }
    return [f"loss {loss.name} reads no reference: {what}" for what, is_so in told.items() if is_so]


def _without_effect(config: RunConfig, num_steps: int, num_held_out: int) -> list[str]:
    training, evaluation = config.training, config.evaluation
    notes = []
    if config.model.dtype in ("bfloat16", "float16") and config.model.adapter is None:
        notes.append(
            f"model.dtype = {config.model.dtype}: weights are updated and gradients of micro-batches added in "
            "that precision too, where what is below about a thousandth of a value is lost; small learning rates need "
            "float32"
        )
    if training.warmup_steps >= num_steps:
        notes.append(
            f"training.warmup_steps = {training.warmup_steps}, but the run takes {num_steps} steps: the learning rate "
            "never reaches its peak"
        )
    every = config.reference.update_steps
    if every is not None and every >= num_steps:
        notes.append(
            f"reference.update_steps = {every}, but the run takes {num_steps} steps: the reference stays as it is"
        )
    if every is not None and num_held_out:
        notes.append(
            "the reference moves (reference.update_steps); held-out rows are held against the one the run begins with, "
            "steps against the one of their time"
        )
    if evaluation.every_steps is not None and evaluation.every_steps >= num_steps:
        notes.append(f"evaluation.every_steps = {evaluation.every_steps}, but the run takes {num_steps} steps")
    if evaluation.samples > num_held_out:
        notes.append(f"evaluation.samples = {evaluation.samples}, but only {num_held_out} rows are held out")
    return notes
