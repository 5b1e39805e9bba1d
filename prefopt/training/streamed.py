"""The optimiser batches of sources that are read while the run goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from typing import Literal

from prefopt.config import TrainingConfig
from prefopt.data.mixture import interleaved
from prefopt.data.row import Row
from prefopt.data.shuffling import shuffled
from prefopt.data.streaming import StreamedSource


class StreamedBatches:
    """Rows as they come, mixed by share and shuffled as far as a buffer reaches; after the last, the first again.

    Attributes:
        num_steps: how many batches there are.
    """

    def __init__(
        self,
        sources: Sequence[StreamedSource],
        shares: Sequence[float],
        ends: Literal["first", "all"],
        training: TrainingConfig,
        *,
        shuffle_buffer: int,
        check: Callable[[Sequence[Row]], None] = lambda rows: None,
    ) -> None:
        """Read nothing yet.

        Args:
            sources: at least one.
            shares: how often a row is drawn from each; they sum to 1.
            ends: when an epoch of a mixture does, as `prefopt.data.mixture.interleaved` says.
            training: batch size, steps (`max_steps` is given), seed.
            shuffle_buffer: rows held to draw the next one from.
            check: refuses the rows of a batch.
        """
        assert training.max_steps is not None
        self.num_steps = training.max_steps
        self._sources = sources
        self._shares = shares
        self._ends: Literal["first", "all"] = ends
        self._training = training
        self._shuffle_buffer = shuffle_buffer
        self._check = check

    @property
    def identity(self) -> str:
        """Digest of the first rows of each source and of how they are mixed and shuffled."""
        each = [
            [(row.prompt, row.completions, row.desirable, row.weight) for row in source.sample]
            for source in self._sources
        ]
        how = (list(self._shares), self._ends, self._shuffle_buffer)
        return hashlib.sha256(repr((each, how)).encode()).hexdigest()

    def after(self, step: int) -> Iterator[Sequence[Row]]:
        """The rows of steps `step` + 1 and on; those before are read and tokenised again.

        Raises:
            ConfigError, DataError: a row cannot be used.
        """
        yield from islice(self._batches(step), step, self.num_steps)

    def _batches(self, checked_from: int) -> Iterator[list[Row]]:
        number = 0
        for epoch in count():
            rows = self._epoch(epoch)
            while batch := list(islice(rows, self._training.batch_size)):
                if number >= checked_from:
                    self._check(batch)
                number += 1
                yield batch

    def _epoch(self, epoch: int) -> Iterator[Row]:
        begin = [source.rows for source in self._sources]
        seed = f"{self._training.seed} {epoch}"
        rows = interleaved(begin, self._shares, self._ends, f"{seed} sources")
        return shuffled(rows, self._shuffle_buffer, f"{seed} rows")
