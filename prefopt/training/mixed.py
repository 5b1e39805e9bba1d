"""The optimiser batches of a mixture: each row from a source drawn by its share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from math import ceil
from typing import Literal

import numpy as np

from prefopt.config import TrainingConfig
from prefopt.data.mixture import epoch_length
from prefopt.data.permutation import Permutation
from prefopt.data.row import Row
from prefopt.training.batches import ShuffledBatches, num_steps

_BLOCK_DRAWS = 2**16


class MixedBatches:
    """Every epoch as many draws as rows, sources and shares say, whatever the seed.

    Within an epoch a source gives each of its rows once, in a fresh order, before it gives one again.

    Attributes:
        num_steps: how many batches there are.
    """

    def __init__(
        self,
        parts: Sequence[Sequence[Row]],
        shares: Sequence[float],
        ends: Literal["first", "all"],
        training: TrainingConfig,
    ) -> None:
        """Take the rows as they are.

        Args:
            parts: the rows of each source, at least one.
            shares: how often a row is drawn from each; they sum to 1.
            ends: when an epoch does, as `prefopt.data.mixture.epoch_length` says.
            training: batch size, epochs or steps, seed.
        """
        self._parts = parts
        self._shares = np.asarray(shares) / np.sum(shares)
        self._training = training
        self._epoch_length = epoch_length([len(part) for part in parts], shares, ends)
        self.num_steps = num_steps(self._epoch_length, training.batch_size, training.epochs, training.max_steps)

    @property
    def identity(self) -> str:
        """Digest of what each source would be told by alone, of the shares and of the length of an epoch."""
        each = [ShuffledBatches(part, self._training).identity for part in self._parts]
        return hashlib.sha256(repr((each, self._shares.tolist(), self._epoch_length)).encode()).hexdigest()

    def after(self, step: int) -> Iterator[Sequence[Row]]:
        """The rows of steps `step` + 1 and on."""
        size = self._training.batch_size
        each_epoch = ceil(self._epoch_length / size)
        while step < self.num_steps:
            epoch, place = divmod(step, each_epoch)
            rows: list[Row] = []
            for row in self._epoch(epoch, place * size):
                rows.append(row)
                if len(rows) == size:
                    yield rows
                    rows = []
                    step += 1
                    if step == self.num_steps:
                        return
            if rows:
                yield rows
                step += 1

    def _epoch(self, epoch: int, start: int) -> Iterator[Row]:
        """The rows of an epoch from draw `start` on."""
        seed = self._training.seed
        given = np.zeros(len(self._parts), dtype=np.int64)
        orders: dict[int, tuple[int, Permutation]] = {}
        for block_start in range(0, self._epoch_length, _BLOCK_DRAWS):
            draw = np.random.default_rng((seed, epoch, block_start))
            count = min(_BLOCK_DRAWS, self._epoch_length - block_start)
            sources = draw.choice(len(self._parts), size=_BLOCK_DRAWS, p=self._shares)[:count]
            passed = sources[: max(0, start - block_start)]
            given += np.bincount(passed, minlength=len(self._parts))
            for source in sources[len(passed) :].tolist():
                part = self._parts[source]
                cycle, index = divmod(int(given[source]), len(part))
                given[source] += 1
                if source not in orders or orders[source][0] != cycle:
                    orders[source] = cycle, Permutation(len(part), seed, epoch, source, cycle)
                yield part[orders[source][1][index]]
