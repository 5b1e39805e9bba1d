"""What an optimiser holds for each parameter, and what its step needs for a moment."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import nn

_LEAST_QUANTIZED = 4096  # torchao leaves smaller tensors as they are
_BLOCK = {"adamw_8bit": 256, "adamw_4bit": 128}


def state_sizes(optimizer: str, parameter: nn.Parameter) -> list[int]:
    """Bytes of each tensor that the optimiser keeps for one parameter, counters of steps left out.

    >>> state_sizes("adamw", nn.Parameter(torch.zeros(3, 5)))
    [60, 60]
    >>> state_sizes("adafactor", nn.Parameter(torch.zeros(3, 5)))
    [12, 20]
    """
    size = parameter.numel() * parameter.element_size()
    if optimizer == "sgd":
        return []
    if optimizer == "rmsprop":
        return [size]
    if optimizer == "adafactor":
        if parameter.dim() < 2:
            return [size]
        *_, rows, columns = parameter.shape
        outer = prod(parameter.shape[:-2]) * parameter.element_size()
        return [outer * rows, outer * columns]
    if optimizer in _BLOCK and parameter.numel() >= _LEAST_QUANTIZED and parameter.numel() % _BLOCK[optimizer] == 0:
        codes = parameter.numel() // (1 if optimizer == "adamw_8bit" else 2)
        return [codes + parameter.numel() // _BLOCK[optimizer] * 4] * 2
    return [size, size]


def step_bytes(optimizer: str, trainable: Sequence[nn.Parameter], device: str) -> int:
    """Bytes that one step needs besides what the optimiser keeps.

    Args:
        optimizer: by name.
        trainable: its parameters.
        device: "cpu" or "cuda"; there torch takes all parameters in one go.
    """
    sizes = [each.numel() * each.element_size() for each in trainable]
    if optimizer in ("adamw", "sgd") or not sizes:
        return 0
    if optimizer == "rmsprop":  # the root of the averages: of one parameter after the other, or of all
        return sum(sizes) if device == "cuda" else max(sizes)
    if optimizer == "adafactor":  # the square of the gradient, then the update and its square
        return 2 * max(sizes)
    # torchao takes one parameter after the other: both averages and the update in full precision.
    largest = max(each.numel() for each in trainable)
    return 3 * largest * torch.float32.itemsize
