"""The training loop: optimiser steps of any loss over any causal language model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prefopt.config import ReferenceConfig, TrainingConfig
from prefopt.data.row import Row
from prefopt.engine.accumulation import accumulate
from prefopt.engine.logps import LogpSource, Scorer
from prefopt.errors import NonFiniteLossError, OutOfMemoryError
from prefopt.training.batches import Batches, ShuffledBatches
from prefopt.training.costs import step_costs
from prefopt.training.loss_error import loss_error
from prefopt.training.measures import step_measures
from prefopt.training.moving import MovingReference
from prefopt.training.optimization import build_optimizer, build_scheduler
from prefopt.training.placement import Placement
from prefopt.training.scaling import LossScaling
from prefopt.training.snapshot import Changing, Snapshot
from prefopt.weighted import Objective


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
        rows: Sequence[Row] | Batches,
        training: TrainingConfig,
        *,
        moving: ReferenceConfig | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            policy: the model to train, in place, as `prefopt.engine.parity.prove` found it can be used.
            reference: the model to freeze or its values, or None for losses that need none.
            loss: one loss or a weighted sum.
            rows: the training rows, shuffled anew every epoch; or batches of them, which are taken as they come.
            training: batch size, optimiser, schedule, seed.
            moving: says when a reference model is drawn towards the policy; absent: it stays as it is.

        Started in several processes (`torchrun`), each is given all rows and computes its part of every batch.

        Raises:
            ConfigError: the processes that were asked for did not find each other, or would share the model otherwise
                than by DDP, FSDP2 or DeepSpeed.
            ModelError: a moving reference has another architecture than the policy.
        """
        self._placement = Placement()
        self.ranks = self._placement.ranks
        self._loss = loss
        self.batches = ShuffledBatches(rows, training) if isinstance(rows, Sequence) else rows
        self._training = training
        self.state: Mapping[str, Tensor] = loss.initial_state()
        self.num_steps = self.batches.num_steps
        self._done = 0
        torch.manual_seed(training.seed)
        if training.gradient_checkpointing:
            policy.model.train()  # layers check the mode; every dropout is zero
            _enable_checkpointing(policy.model)
        optimizer = build_optimizer(policy.parameters(), training)
        # Accelerate would step a schedule once a process; `batch_size` counts the rows of all, and so do our steps.
        self._scheduler = build_scheduler(optimizer, training, self.num_steps)
        self.policy, self._optimizer = self._placement.spread(policy, optimizer, training.max_grad_norm)
        self._scaling = LossScaling(self._optimizer, self._placement, policy.autocast)
        moves = moving is not None and moving.update_steps is not None
        self._reference = reference
        if isinstance(reference, Scorer):
            self._reference = self._placement.place(reference, moves=moves)
        self._moving = None
        if moving is not None and moving.update_steps is not None and isinstance(reference, Scorer):
            self._moving = MovingReference(policy, reference, every=moving.update_steps, weight=moving.update_weight)
        weights, kept = self._placement.held(policy, self._optimizer)
        self._changing = Changing(
            weights=weights,
            followers={} if self._moving is None else self._moving.moved,
            optimizer=kept,
            parts={"scheduler": self._scheduler, "scaling": self._scaling},
        )

    def run(self, after_step: Callable[[Step], None]) -> None:
        """Take every step of the run, calling `after_step` after each.

        Raises:
            NonFiniteLossError: a loss or a gradient is NaN or infinite; the weights are those before that step.
        """
        for rows in self.batches.after(self._done):
            metrics = self._step(self._done + 1, rows)
            self._done += 1
            after_step(Step(self._done, metrics))

    def snapshot(self) -> Snapshot:
        """All that has changed since the beginning, as it stands between two steps."""
        return self._changing.snapshot(self._done, self.state)

    def restore(self, taken: Snapshot) -> None:
        """Go on after the step at which a snapshot of this same run was taken.

        Raises:
            OutputError: it is not one of this model and optimiser.
        """
        self.state = self._changing.restore(taken)
        self._done = taken.step

    def _step(self, number: int, rows: Sequence[Row]) -> dict[str, Any]:
        started = time.perf_counter()
        learning_rate = float(self._optimizer.param_groups[0]["lr"])  # a tensor of its own in torchao's
        try:
            result = accumulate(
                self.policy,
                self._reference,
                self._loss,
                rows,
                tokens_per_microbatch=self._training.tokens_per_microbatch,
                backward=self._scaling.backward,
                state=self.state,
                seed=self._training.seed,
                step=number,
                ranks=self.ranks,
            )
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f"step {number}: {error}; the step was not taken") from None
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise OutOfMemoryError(
                f"step {number}: no memory left ({' '.join(str(error).split())[:160] or 'of the machine'}); lower "
                "training.tokens_per_microbatch or set training.gradient_checkpointing, and start again with --resume"
            ) from None
        self._scaling.unscale()
        norm = self._placement.clip(self.policy, self._training.max_grad_norm)
        if not torch.isfinite(norm) and not self._scaling.can_lower:
            names = ", ".join(row.name for row in rows[:5]) + (" and others" if len(rows) > 5 else "")
            raise NonFiniteLossError(
                f"step {number}: the gradient is {float(norm)} although every loss is finite, on {names}; "
                "the step was not taken"
            )
        if self._scaling.step():
            self._scheduler.step()
        self._optimizer.zero_grad()
        if self._moving is not None:
            self._moving.after_step(number)
        before, self.state = self.state, result.output.state or self.state
        spread = loss_error(result)
        return {
            "step": number,
            "loss": result.loss,
            **({} if spread is None else {"loss_error": spread}),
            **({"grad_norm": float(norm)} if torch.isfinite(norm) else {}),
            **step_measures(self._loss, result, before),
            **self._scaling.measures(),
            "learning_rate": learning_rate,
            "num_rows": len(rows),
            "num_tokens": result.num_tokens,
            **step_costs(result.num_tokens, time.perf_counter() - started),
        }


def _enable_checkpointing(policy: PreTrainedModel, **settings: Any) -> None:
    # transformers renamed the method on the way to version 6.
    enable = getattr(policy, "activation_checkpointing_enable", None) or policy.gradient_checkpointing_enable
    enable(settings or None)
