"""The interface of a benchmark method: anything that makes policies, a loss being one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from prefopt.worlds import Worlds

Trial = Mapping[str, float]


@dataclass(frozen=True)
class Budget:
    """What every method may spend.

    Attributes:
        steps: optimiser steps.
        batch_size: rows (or samples) a step; None: all rows in every step.
        checkpoints: [K] the steps after which a policy is kept and measured, ascending, the last one `steps`.
    """

    steps: int
    batch_size: int | None
    checkpoints: tuple[int, ...]


class Method(ABC):
    """A way from preferences to a policy. A subclass sets `name` and `tune` and writes `policies`.

    The first line of its docstring is what `prefopt bench list` and the report say about it.

    Attributes:
        name: one lowercase word of letters, digits and _.
        tune: hyper-parameter -> (lowest, highest) that trials draw from: on a log scale where the lowest is above 0.
        knows_reward: it reads the true reward, so it is no contender but a bound.
    """

    name: str
    tune: Mapping[str, tuple[float, float]] = MappingProxyType({})
    knows_reward: bool = False

    @abstractmethod
    def policies(self, trials: Sequence[Trial], worlds: Worlds, budget: Budget) -> Tensor:
        """The policies of all trials and seeds in one program.

        Args:
            trials: [T] a value for every name in `tune`.
            worlds: [S] the worlds, one a seed, with the rows to learn from.
            budget: what may be spent.

        Returns:
            [T, S, K, P, C] float64 log-probs of every completion, nats. K is the number of checkpoints, or 1 for
            methods that do not train. A policy that diverged is NaN.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `policies`")
