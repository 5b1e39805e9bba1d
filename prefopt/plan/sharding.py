"""What one of several processes holds of a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import nn

from prefopt.engine.logps import Scorer

Sharding = Literal["ddp", "fsdp"]


def bytes_of(tensors: Iterable[nn.Parameter]) -> int:
    """Bytes of all of them."""
    return sum(each.numel() * each.element_size() for each in tensors)


def gathered_bytes(scorer: Scorer) -> tuple[int, int]:
    """Weights and gradients that FSDP2 puts together for a moment.

    The layers are sharded one by one; while one is computed the next is gathered already, and what lies outside the
    layers (embeddings, head, last norm) stays together.

    Returns:
        Bytes of weights, and of gradients on their way to the process that keeps them.
    """
    names = set(scorer.model._no_split_modules or ())
    layers = [module for module in scorer.model.modules() if type(module).__name__ in names]
    inside = {id(own) for layer in layers for own in layer.parameters()}
    outside = [own for own in scorer.parameters() if id(own) not in inside]
    largest = max(layers, key=lambda layer: bytes_of(layer.parameters())) if layers else nn.Module()
    both = [*outside, *largest.parameters()]
    trained = bytes_of(own for own in both if own.requires_grad)
    return bytes_of(both) + bytes_of(largest.parameters()), trained
