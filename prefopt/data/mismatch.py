"""The mismatched completions from which KTO estimates its KL: a fixed function of the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

from prefopt.data.row import Completion, Row
from prefopt.data.truncation import cut
from prefopt.errors import DataError


def add_mismatched(rows: Sequence[Row], *, max_length: int) -> tuple[list[Row], int]:
    """Gives each row the completions of the next row, in order and wrapping round, that has another prompt.

    Each own completion gets the one at the same place there (counted round where there are fewer), cut at its
    end to fit behind the row's own prompt. A row whose completions would keep no scored token is passed over.

    Args:
        rows: All rows of a source, in file order, after truncation to `max_length`.
        max_length: Tokens of prompt and completion together.

    Returns:
        The rows with `mismatched` filled, and how many of them got completions of their own prompt because no
        other prompt would do.

    Raises:
        DataError: There is one row only, or nothing fits behind a row's prompt.
    """
    if len(rows) == 1:
        raise DataError(f"{rows[0].name} is alone: a mismatched completion needs a second row")
    runs = _runs(rows)
    matched: list[Row] = []
    num_same_prompt = 0
    for index, row in enumerate(rows):
        for other in chain(_other_prompts(rows, index, runs), _same_prompt(rows, index)):
            mismatched = _mismatched(row, rows[other], max_length)
            if mismatched:
                num_same_prompt += rows[other].prompt == row.prompt
                matched.append(replace(row, mismatched=mismatched))
                break
        else:
            raise DataError(
                f"{row.name}: no completion of another row keeps a scored token behind its prompt of "
                f"{len(row.prompt)} tokens within max_length {max_length}"
            )
    return matched, num_same_prompt


def _mismatched(row: Row, other: Row, max_length: int) -> tuple[Completion, ...]:
    room = max_length - len(row.prompt)
    theirs = other.completions
    cuts = tuple(cut(theirs[side % len(theirs)], room) for side in range(len(row.completions)))
    return cuts if room > 0 and all(completion.num_scored for completion in cuts) else ()


def _runs(rows: Sequence[Row]) -> list[int]:
    """For each row, how many rows from it on, itself included, share its prompt: what a search can jump."""
    runs = [1] * len(rows)
    for index in range(len(rows) - 2, -1, -1):
        if rows[index].prompt == rows[index + 1].prompt:
            runs[index] = runs[index + 1] + 1
    return runs


def _other_prompts(rows: Sequence[Row], index: int, runs: Sequence[int]) -> Iterator[int]:
    distance = 1
    while distance < len(rows):
        other = (index + distance) % len(rows)
        if rows[other].prompt == rows[index].prompt:
            distance += runs[other]
        else:
            yield other
            distance += 1


def _same_prompt(rows: Sequence[Row], index: int) -> Iterator[int]:
    for distance in range(1, len(rows)):
        other = (index + distance) % len(rows)
        if rows[other].prompt == rows[index].prompt:
            yield other
