"""Which rows make up each optimiser batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from math import ceil
from typing import Protocol

from prefopt.config import TrainingConfig
from prefopt.data.permutation import Permutation
from prefopt.data.row import Row

_NUM_TELLING = 64  # rows that stand for all when a run asks whether its data are still the same


class Batches(Protocol):
    """The optimiser batches of a run, in order.

    Attributes:
        num_steps: how many there are.
    """

    num_steps: int

    @property
    def identity(self) -> str:
        """Tells other rows or another order: a run is resumed on the same only."""

    def after(self, step: int) -> Iterator[Sequence[Row]]:
        """The rows of steps `step` + 1, `step` + 2 and so on, the same wherever one begins to read."""


class ShuffledBatches:
    """Every epoch a fresh order of all rows, which depends on seed and epoch alone."""

    def __init__(self, rows: Sequence[Row], training: TrainingConfig) -> None:
        """Take the rows as they are.

        Args:
            rows: at least one.
            training: batch size, epochs or steps, seed.
        """
        self._rows = rows
        self._training = training
        self.num_steps = num_steps(len(rows), training.batch_size, training.epochs, training.max_steps)

    @property
    def identity(self) -> str:
        """Digest of the number of rows and of some of them."""
        count = len(self._rows)
        telling = sorted({place * (count - 1) // _NUM_TELLING for place in range(_NUM_TELLING + 1)})
        some = [self._rows[place] for place in telling]
        content = [(row.prompt, row.completions, row.desirable, row.weight) for row in some]
        return hashlib.sha256(repr((count, content)).encode()).hexdigest()

    def after(self, step: int) -> Iterator[Sequence[Row]]:
        """The rows of steps `step` + 1 and on."""
        size, seed = self._training.batch_size, self._training.seed
        for indices in batches(len(self._rows), size, steps=self.num_steps, seed=seed, done=step):
            yield [self._rows[index] for index in indices]


def num_steps(num_rows: int, batch_size: int, epochs: float, max_steps: int | None) -> int:
    """Optimiser steps of a run: `max_steps` where it is given, whatever `epochs` says.

    The last short batch of an epoch is a step of its own.

    >>> num_steps(10, 4, epochs=2, max_steps=None)
    6
    """
    return max_steps or max(1, ceil(epochs * ceil(num_rows / batch_size)))


def batches(num_rows: int, batch_size: int, *, steps: int, seed: int, done: int = 0) -> Iterator[list[int]]:
    """Row indices of steps `done` + 1 to `steps`: every epoch a fresh order that depends on seed and epoch alone.

    >>> [sorted(batch) for batch in batches(3, 2, steps=2, seed=0)][-1] in ([0], [1], [2])
    True
    >>> list(batches(3, 2, steps=4, seed=0, done=3)) == list(batches(3, 2, steps=4, seed=0))[3:]
    True
    """
    each_epoch = ceil(num_rows / batch_size)
    for step in range(done, steps):
        epoch, place = divmod(step, each_epoch)
        order = Permutation(num_rows, seed, epoch)
        yield [order[index] for index in range(num_rows)[place * batch_size : (place + 1) * batch_size]]
