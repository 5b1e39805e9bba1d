"""Which rows make up each optimiser batch."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import torch


def num_steps(num_rows: int, batch_size: int, epochs: float, max_steps: int | None) -> int:
    """Optimiser steps of a run: `max_steps` where it is given, whatever `epochs` says.

    The last short batch of an epoch is a step of its own.

    >>> num_steps(10, 4, epochs=2, max_steps=None)
    6
    """
    return max_steps or max(1, ceil(epochs * ceil(num_rows / batch_size)))


def batches(num_rows: int, batch_size: int, *, steps: int, seed: int) -> Iterator[list[int]]:
    """Row indices of each step: every epoch a fresh order that depends on seed and epoch alone.

    >>> [sorted(batch) for batch in batches(3, 2, steps=2, seed=0)][-1] in ([0], [1], [2])
    True
    """
    done = epoch = 0
    while True:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(num_rows, generator=generator).tolist()
        for start in range(0, num_rows, batch_size):
            if done == steps:
                return
            yield order[start : start + batch_size]
            done += 1
        epoch += 1
