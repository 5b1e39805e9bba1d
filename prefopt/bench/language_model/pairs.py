"""From continuations and their rewards to the rows a loss reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from prefopt.data.mismatch import add_mismatched
from prefopt.data.row import Row
from prefopt.errors import DataError
from prefopt.loss import Loss, listed


def compare(
    generator: np.random.Generator, samples: Sequence[Row], rewards: Sequence[float], *, num_samples: int, noise: float
) -> list[Row]:
    """Every pair of continuations of a prompt whose rewards differ, the better one chosen.

    Args:
        generator: of the noise.
        samples: `num_samples` rows of the first prompt, then of the second, and so on.
        rewards: one a sample; they are the scores of the completions.
        num_samples: of a prompt.
        noise: the chance that a pair is turned upside down, scores included.

    Source:
        Rafailov et al.: Direct Preference Optimization, 2023, arXiv 2305.18290, appendix C.1 (six pairs of four
        completions; there without noise).
    """
    pairs: list[Row] = []
    for first in range(0, len(samples), num_samples):
        for one, other in combinations(range(first, first + num_samples), 2):
            if rewards[one] == rewards[other]:
                continue
            chosen, rejected = (one, other) if rewards[one] > rewards[other] else (other, one)
            scores = rewards[chosen], rewards[rejected]
            if generator.random() < noise:
                chosen, rejected = rejected, chosen
            completions = tuple(
                replace(samples[index].completions[0], score=score)
                for index, score in zip((chosen, rejected), scores, strict=True)
            )
            pairs.append(Row("pairs", "sampled pairs", len(pairs) + 1, samples[one].prompt, completions))
    return pairs


def read_as(pairs: Sequence[Row], loss: Loss) -> list[Row]:
    """The pairs as a loss reads them, with mismatched completions where it asks.

    They stay pairs where they can; the engine splits them for a loss that reads labels. Otherwise they become rankings
    of two, or demonstrations of the chosen.

    Raises:
        DataError: the loss can read them in no way.
    """
    kinds = set(loss.needs.rows)
    rows: Sequence[Row] = list(pairs)
    if not kinds & {"pairs", "labels"}:
        if "rankings" in kinds:
            rows = [replace(row, kind="rankings") for row in rows]
        elif "demonstrations" in kinds:
            rows = [replace(row, kind="demonstrations", completions=row.completions[:1]) for row in rows]
        else:
            raise DataError(f"loss {loss.name} reads {listed(kinds)}, which no pair can be read as")
    if loss.needs.mismatched:
        rows, _ = add_mismatched(rows, max_length=2 * max(_length(row) for row in rows))
    return list(rows)


def _length(row: Row) -> int:
    return len(row.prompt) + max(len(own.ids) for own in row.completions)
