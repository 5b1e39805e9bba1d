"""Random numbers for the rows of a batch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """Random numbers keyed by seed, step and row id, so that they depend neither on a row's place nor on its company.

    Attributes:
        row_ids: one id >= 0 for each row of the batch; rows of one id draw the same numbers.
        seed: the run's, >= 0.
        step: the optimiser step, >= 0.
    """

    row_ids: tuple[int, ...]
    seed: int = 0
    step: int = 0

    def uniform(self, counts: Sequence[int], *, stream: int = 0) -> Tensor:
        """Numbers in [0, 1) on the CPU, in float64.

        Args:
            counts: how many each row draws, >= 0.
            stream: >= 0; another stream gives other numbers for the same rows.

        Returns:
            [sum of counts] row after row.

        Raises:
            ValueError: there is not one count a row.

        >>> both = Draws((7, 8)).uniform([2, 1])
        >>> both[:2].equal(Draws((7,)).uniform([2]))
        True
        """
        if len(counts) != len(self.row_ids):
            raise ValueError(f"draws for {len(self.row_ids)} rows were asked for {len(counts)} counts; give one a row")
        return _drawn(self, tuple(counts), stream).clone()


# A loss asks for the same numbers in each of the engine's passes, and one loss of many trials in each trial.
@functools.lru_cache(maxsize=8)
def _drawn(draws: Draws, counts: tuple[int, ...], stream: int) -> Tensor:
    drawn = [
        np.random.default_rng((draws.seed, draws.step, row_id, stream)).random(count)
        for row_id, count in zip(draws.row_ids, counts, strict=True)
    ]
    return torch.from_numpy(np.concatenate(drawn) if drawn else np.empty(0))
