"""Scaling the loss, so that gradients computed in float16 are not lost below its smallest numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from prefopt.training.placement import Placement


class LossScaling:
    """torch's dynamic loss scale where products are in float16; otherwise nothing is scaled.

    A gradient that overflows halves the scale, and its step is not taken.
    """

    def __init__(self, optimizer: Optimizer, placement: Placement, autocast: torch.dtype | None) -> None:
        """Scale for one optimiser.

        Args:
            optimizer: whose steps are taken.
            placement: back-propagates.
            autocast: precision of the products, None where it is that of the weights.
        """
        self._optimizer = optimizer
        self._placement = placement
        self._scaler = GradScaler(placement.device.type, enabled=autocast is torch.float16)

    @property
    def can_lower(self) -> bool:
        """Whether a gradient that is not finite may be due to the scale alone."""
        return self._scaler.is_enabled() and self._scaler.get_scale() > 1

    def backward(self, value: Tensor) -> None:
        """Back-propagate a scalar, scaled."""
        self._placement.backward(self._scaler.scale(value))

    def unscale(self) -> None:
        """Give the gradients their true size."""
        self._scaler.unscale_(self._optimizer)

    def step(self) -> bool:
        """Take the optimiser's step, unless a gradient overflowed; whether it was taken."""
        before = self._scaler.get_scale()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return self._scaler.get_scale() >= before

    def measures(self) -> dict[str, float]:
        """`loss_scale`, where there is one."""
        return {"loss_scale": self._scaler.get_scale()} if self._scaler.is_enabled() else {}

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` goes on from."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state)
