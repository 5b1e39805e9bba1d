"""Any registered loss as a method of the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefopt.bench.columns import columns, prepared
from prefopt.bench.stacked import StackedLoss
from prefopt.errors import ConfigError
from prefopt.loss import Loss
from prefopt.method import Budget, Method, Trial
from prefopt.worlds import LEARNING_RATES, Policies, Worlds

_ORDER = 3  # a stream of random numbers that no world uses


class LossMethod(Method):
    """A loss that trains the policy on the rows, by minibatches of one shuffled epoch after the other.

    Args:
        loss_class: the loss. Trials draw the learning rate and its `tune` fields, but for those that are not read while
            the other fields have their defaults; these keep them.
    """

    def __init__(self, loss_class: type[Loss]) -> None:
        self.loss_class = loss_class
        self.name = loss_class.name
        ranges = {name: _range(info.json_schema_extra) for name, info in loss_class.model_fields.items()}
        read = {name: found for name, found in ranges.items() if found and _is_read(loss_class, name, found)}
        self.tune = {"learning_rate": LEARNING_RATES} | read

    def losses(self, trials: Sequence[Trial]) -> list[Loss]:
        """[T] the loss of each trial.

        Raises:
            ConfigError: a hyper-parameter is out of its range.
        """
        return [
            self.loss_class(**{name: value for name, value in trial.items() if name != "learning_rate"})
            for trial in trials
        ]

    def policies(self, trials: Sequence[Trial], worlds: Worlds, budget: Budget) -> Tensor:
        """[T, S, K, P, C] log-probs of every completion under the trained policies, nats.

        Raises:
            DataError: the loss cannot read the rows of these worlds.
        """
        loss, needs = StackedLoss(self.losses(trials)), self.loss_class.needs
        rows = [prepared(own, needs) for own in worlds.rows]
        orders = [_order(len(own), budget, seed) for own, seed in zip(rows, worlds.seeds, strict=True)]

        def objective(step: int, next_token_logps: Tensor) -> Tensor:
            taken = [own.take(order[step]) for own, order in zip(rows, orders, strict=True)]
            return loss(taken[0].kind, columns(worlds, taken, next_token_logps, needs), step)

        policies = Policies(worlds, [trial["learning_rate"] for trial in trials], budget.steps)
        return policies.train(objective, budget.checkpoints)


def _range(extra: Any) -> tuple[float, float] | None:
    found = extra.get("tune") if isinstance(extra, dict) else None
    return (float(found[0]), float(found[1])) if found else None


def _is_read(loss_class: type[Loss], name: str, range_: tuple[float, float]) -> bool:
    """Whether the hyper-parameter may be given by itself: f-DPO's alpha may not, unless its divergence is alpha's."""
    try:
        loss_class(**{name: range_[1]})
    except ConfigError:
        return False
    return True


def _order(num_rows: int, budget: Budget, seed: int) -> Tensor:
    """[steps, batch_size] which rows each step takes: shuffled epochs, one after the other; or all in every step."""
    if budget.batch_size is None:
        return torch.arange(num_rows).expand(budget.steps, num_rows)
    generator = np.random.default_rng((seed, _ORDER))
    wanted = budget.steps * budget.batch_size
    epochs = [generator.permutation(num_rows) for _ in range(-(-wanted // num_rows))]
    return torch.from_numpy(np.concatenate(epochs)[:wanted].reshape(budget.steps, budget.batch_size))
