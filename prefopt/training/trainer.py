"""The training loop: optimiser steps of any loss over any causal language model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, GradientAccumulationPlugin
from torch import Tensor
from transformers import PreTrainedModel

from prefopt.config import ReferenceConfig, TrainingConfig
from prefopt.data.row import Row
from prefopt.engine.accumulation import StepResult, accumulate
from prefopt.engine.logps import LogpSource, Scorer
from prefopt.engine.ranks import Ranks, on_cpu
from prefopt.engine.rewards import row_rewards
from prefopt.errors import ConfigError, NonFiniteLossError, PluginError
from prefopt.training.batches import batches, num_steps
from prefopt.training.moving import MovingReference
from prefopt.training.optimization import build_optimizer, build_scheduler
from prefopt.weighted import Objective

_DDP = (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.MULTI_XPU, DistributedType.MULTI_NPU)
_OWN_METRICS = frozenset(
    (
        "step loss reward_accuracy reward_margin grad_norm learning_rate num_rows num_tokens step_seconds evaluation"
    ).split()
)


@dataclass(frozen=True)
class Step:
    """One optimiser step: its number from 1, and what was measured before its update."""

    number: int
    metrics: Mapping[str, Any]


class Trainer:
    """Trains a policy with one loss; knows no loss by name and loads nothing."""

    def __init__(
        self,
        policy: Scorer,
        reference: LogpSource | None,
        loss: Objective,
        rows: Sequence[Row],
        training: TrainingConfig,
        *,
        moving: ReferenceConfig | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            policy: the model to train, in place, as `prefopt.engine.parity.prove` found it can be used.
            reference: the model to freeze or its values, or None for losses that need none.
            loss: one loss or a weighted sum.
            rows: the training rows.
            training: batch size, optimiser, schedule, seed.
            moving: says when a reference model is drawn towards the policy; absent: it stays as it is.

        Started in several processes (`torchrun`), each is given all rows and computes its part of every batch.

        Raises:
            ConfigError: the processes that were asked for did not find each other, or would share the model otherwise
                than by DDP.
            ModelError: a moving reference has another architecture than the policy.
        """
        self._ranks = Ranks.started()
        # Said here, so that no variable of a launcher's environment scales or casts the gradient behind our back.
        self._accelerator = Accelerator(
            cpu=on_cpu(self._ranks.count),
            mixed_precision="no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        )
        if self._accelerator.distributed_type not in (DistributedType.NO, *_DDP):
            kind = self._accelerator.distributed_type.value
            raise ConfigError(f"the run was started for {kind}; this version's trainer takes DDP only")
        self._loss = loss
        self._rows = rows
        self._training = training
        self.state: Mapping[str, Tensor] = loss.initial_state()
        self.num_steps = num_steps(len(rows), training.batch_size, training.epochs, training.max_steps)
        torch.manual_seed(training.seed)
        if training.gradient_checkpointing:
            policy.model.train()  # layers check the mode; every dropout is zero
            _enable_checkpointing(policy.model)
        optimizer = build_optimizer(policy.parameters(), training)
        scheduler = build_scheduler(optimizer, training, self.num_steps)
        self.policy, self._optimizer = self._accelerator.prepare(policy, optimizer)
        # Accelerate would step a schedule once a process; `batch_size` counts the rows of all, and so do our steps.
        self._scheduler = scheduler
        self._reference = reference
        if isinstance(reference, Scorer):
            self._reference = reference.requires_grad_(False).to(self._accelerator.device)
        self._moving = None
        if moving is not None and moving.update_steps is not None and isinstance(reference, Scorer):
            self._moving = MovingReference(policy, reference, every=moving.update_steps, weight=moving.update_weight)

    def run(self, after_step: Callable[[Step], None]) -> None:
        """Take every step of the run, calling `after_step` after each.

        Raises:
            NonFiniteLossError: a loss or a gradient is NaN or infinite; the weights are those before that step.
        """
        training = self._training
        chosen = batches(len(self._rows), training.batch_size, steps=self.num_steps, seed=training.seed)
        for number, indices in enumerate(chosen, 1):
            after_step(Step(number, self._step(number, [self._rows[index] for index in indices])))

    def _step(self, number: int, rows: Sequence[Row]) -> dict[str, Any]:
        started = time.perf_counter()
        learning_rate = self._optimizer.param_groups[0]["lr"]
        try:
            result = accumulate(
                self.policy,
                self._reference,
                self._loss,
                rows,
                tokens_per_microbatch=self._training.tokens_per_microbatch,
                backward=self._accelerator.backward,
                state=self.state,
                seed=self._training.seed,
                step=number,
                ranks=self._ranks,
            )
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f"step {number}: {error}; the step was not taken") from None
        limit = self._training.max_grad_norm
        norm = self._accelerator.clip_grad_norm_(self.policy.parameters(), float("inf") if limit is None else limit)
        if not torch.isfinite(norm):
            names = ", ".join(row.name for row in rows[:5]) + (" and others" if len(rows) > 5 else "")
            raise NonFiniteLossError(
                f"step {number}: the gradient is {float(norm)} although every loss is finite, on {names}; "
                "the step was not taken"
            )
        self._optimizer.step()
        self._scheduler.step()
        self._optimizer.zero_grad()
        if self._moving is not None:
            self._moving.after_step(number)
        self.state = result.output.state or self.state
        return {
            "step": number,
            "loss": result.loss,
            **_rewards(self._loss, result),
            "grad_norm": float(norm),
            "learning_rate": learning_rate,
            "num_rows": len(rows),
            "num_tokens": result.num_tokens,
            "step_seconds": round(time.perf_counter() - started, 4),
        }


def _enable_checkpointing(policy: PreTrainedModel, **settings: Any) -> None:
    # transformers renamed the method on the way to version 6.
    enable = getattr(policy, "activation_checkpointing_enable", None) or policy.gradient_checkpointing_enable
    enable(settings or None)


def _rewards(loss: Objective, result: StepResult) -> dict[str, float]:
    """Accuracy and margin where the rows hold pairs, and the weighted mean of each metric of the loss."""
    found: dict[str, float] = {}
    rewards = row_rewards(loss, result.assembly, result.policy, result.reference)
    if rewards is not None:
        found |= {"reward_accuracy": rewards.accuracy, "reward_margin": rewards.margin}
    weights = result.output.losses.new_tensor([result.assembly.rows[owner].weight for owner in result.assembly.owners])
    for name, values in result.output.metrics.items():
        if name in _OWN_METRICS:
            raise PluginError(f"loss {loss.name} returns a metric named {name!r}, which every step has; rename it")
        found[name] = float((weights * values).sum() / weights.sum())
    return found
