"""Everything of a run that changes from step to step: taken between two steps, and put back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from prefopt.errors import OutputError
from prefopt.training.zero import Zero

_REFERENCE = "reference."


class Stateful(Protocol):
    """Has a state that can be taken and put back."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put it back."""


@dataclass(frozen=True)
class Snapshot:
    """What a run has become after a step; of a sharded model, this process's shards.

    Attributes:
        step: the last one taken.
        sharded: whether each process holds a part of its own; otherwise all hold the same.
        weights: name -> values of every parameter in training, and under `reference.` those of a reference that moves.
        state: of the optimiser, the schedule, the loss scale, the random numbers and the loss: tensors, numbers, lists
            and dictionaries.
    """

    step: int
    sharded: bool
    weights: Mapping[str, Tensor]
    state: Mapping[str, Any]


@dataclass(frozen=True)
class Changing:
    """What changes in a run, besides the loss's state.

    Attributes:
        weights: what this process holds of the parameters in training, by name.
        followers: the parameters of a reference that follows it, by name; none where it stands still.
        optimizer: over them.
        parts: name -> whatever else has a state.
    """

    weights: Mapping[str, Tensor]
    followers: Mapping[str, Tensor]
    optimizer: Optimizer | Zero
    parts: Mapping[str, Stateful]

    def snapshot(self, step: int, loss_state: Mapping[str, Tensor]) -> Snapshot:
        """All of it after `step`; the values are not copied."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"optimizer": self.optimizer.state_dict(), "loss": dict(loss_state), "random": _random_state()}
        sharded = isinstance(self.optimizer, Zero) or any(isinstance(own, DTensor) for own in self.weights.values())
        weights = {name: _local(own.detach()) for name, own in self._all_weights().items()}
        return Snapshot(step, sharded, weights, tree_map(_local, state))

    @torch.no_grad()
    def restore(self, taken: Snapshot) -> dict[str, Tensor]:
        """Put everything back.

        Returns:
            The loss's state.

        Raises:
            OutputError: the snapshot is one of another model or optimiser.
        """
        weights = self._all_weights()
        if {name: _local(own).shape for name, own in weights.items()} != {
            name: own.shape for name, own in taken.weights.items()
        }:
            raise OutputError("the checkpoint holds other weights than this run trains")
        for name, own in weights.items():
            _local(own).copy_(taken.weights[name])
        for name, part in self.parts.items():
            part.load_state_dict(taken.state[name])
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        kept = taken.state["optimizer"]
        own_state = {
            number: {key: _sharded_as(parameters[number], value) for key, value in values.items()}
            for number, values in kept["state"].items()
        }
        self.optimizer.load_state_dict({**kept, "state": own_state})
        _set_random_state(taken.state["random"])
        device = parameters[0].device
        return {name: value.to(device) for name, value in taken.state["loss"].items()}

    def _all_weights(self) -> dict[str, Tensor]:
        return {**self.weights, **{_REFERENCE + name: own for name, own in self.followers.items()}}


def _local(value: Any) -> Any:
    return value.to_local() if isinstance(value, DTensor) else value


def _sharded_as(parameter: Tensor, value: Any) -> Any:
    """A shard of optimiser state as the parameter it belongs to is sharded."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.to_local().shape:
        return value
    return DTensor.from_local(
        value.to(parameter.device),
        parameter.device_mesh,
        parameter.placements,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def _random_state() -> dict[str, Any]:
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []  # of the device this process computes on
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0])
