"""The mismatched completions from which KTO estimates its KL: a fixed function of the data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from prefopt.data.row import Completion, Row
from prefopt.data.truncation import cut
from prefopt.data.views import RowView
from prefopt.errors import DataError

_BLOCK_BYTES = 2**20


def add_mismatched(rows: Sequence[Row], *, max_length: int) -> tuple[Sequence[Row], int]:
    """Gives each row the completions of the next row, in order and wrapping round, that has another prompt.

    Each own completion gets the one at the same place there (counted round where there are fewer), cut at its
    end to fit behind the row's own prompt. A row whose completions would keep no scored token is passed over.

    Args:
        rows: All rows of a source, in file order, after truncation to `max_length`.
        max_length: Tokens of prompt and completion together.

    Returns:
        A view of the rows with `mismatched` filled, and how many of them got completions of their own prompt because
        no other prompt would do.

    Raises:
        DataError: There is one row only, or nothing fits behind a row's prompt.
    """
    if len(rows) == 1:
        raise alone(rows[0])
    partners = _on_disk(len(rows))
    waiting = _Waiting(rows, max_length, partners)
    for index, row in enumerate(rows):
        waiting.meet(index, row)
        waiting.join(index, row)
    for index, row in enumerate(rows):  # once more from the beginning: the order wraps round
        if waiting.empty():
            break
        waiting.leave(index, row)
        waiting.meet(index, row)
    num_same_prompt = 0
    for index in waiting.unmatched:
        partners[index] = _same_prompt(rows, index, max_length)
        num_same_prompt += 1
    return _Matched(rows, partners, max_length), num_same_prompt


def alone(row: Row) -> DataError:
    """The error for a row beside which there is none."""
    return DataError(f"{row.name} is alone: a mismatched completion needs a second row")


def nothing_fits(row: Row, max_length: int) -> DataError:
    """The error for a row that no other row will do for."""
    return DataError(
        f"{row.name}: no completion of another row keeps a scored token behind its prompt of "
        f"{len(row.prompt)} tokens within max_length {max_length}"
    )


def mismatched(row: Row, other: Row, max_length: int) -> tuple[Completion, ...]:
    """The completions of `other` behind the prompt of `row`; empty where one would keep no scored token."""
    room = max_length - len(row.prompt)
    theirs = other.completions
    cuts = tuple(cut(theirs[side % len(theirs)], room) for side in range(len(row.completions)))
    return cuts if room > 0 and all(completion.num_scored for completion in cuts) else ()


class _Matched(RowView):
    def __init__(self, rows: Sequence[Row], partners: NDArray[np.int64], max_length: int) -> None:
        self._rows = rows
        self._partners = partners
        self._max_length = max_length

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, index: int) -> Row:
        row, other = self._rows[index], self._rows[int(self._partners[index])]
        return replace(row, mismatched=mismatched(row, other, self._max_length))


def _on_disk(count: int) -> NDArray[np.int64]:
    """An array in a file that goes with it: eight bytes a row are much for 10^8 rows in memory."""
    with tempfile.TemporaryFile() as file:
        try:
            # written, so that a full disk is an error here and not the end of the process later
            for start in range(0, 8 * count, _BLOCK_BYTES):
                file.write(bytes(min(_BLOCK_BYTES, 8 * count - start)))
            file.flush()
        except OSError as error:
            raise DataError(
                f"no room for {8 * count:,} bytes in the folder of temporary files {tempfile.gettempdir()!r} "
                f"({error.strerror or error}); make room, or set TMPDIR to another folder"
            ) from error
        return np.memmap(file, dtype=np.int64, mode="r+", shape=(count,))


class _Waiting:
    """Rows that have met no other that will do, in groups that any other row serves alike.

    Rows of one prompt and number of completions are such a group: usually there is one, and it is one stretch.
    """

    def __init__(self, rows: Sequence[Row], max_length: int, partners: NDArray[np.int64]) -> None:
        self._rows = rows
        self._max_length = max_length
        self._partners = partners
        self._groups: dict[tuple[tuple[int, ...], int], list[list[int]]] = {}
        self.unmatched: list[int] = []

    def empty(self) -> bool:
        return not self._groups

    def join(self, index: int, row: Row) -> None:
        stretches = self._groups.setdefault(_group(row), [])
        if stretches and stretches[-1][1] == index:
            stretches[-1][1] = index + 1
        else:
            stretches.append([index, index + 1])

    def meet(self, index: int, row: Row) -> None:
        """Match the groups that `row` will do for."""
        for group, stretches in list(self._groups.items()):
            if group[0] != row.prompt and mismatched(self._rows[stretches[0][0]], row, self._max_length):
                for start, stop in stretches:
                    self._partners[start:stop] = index
                del self._groups[group]

    def leave(self, index: int, row: Row) -> None:
        """The row has met all others in vain, if it still waits."""
        stretches = self._groups.get(_group(row))
        if stretches and stretches[0][0] == index:
            self.unmatched.append(index)
            stretches[0][0] += 1
            if stretches[0][0] == stretches[0][1]:
                del stretches[0]
            if not stretches:
                del self._groups[_group(row)]


def _group(row: Row) -> tuple[tuple[int, ...], int]:
    return row.prompt, len(row.completions)


def _same_prompt(rows: Sequence[Row], index: int, max_length: int) -> int:
    """The next row of the same prompt that will do."""
    row = rows[index]
    for other in _following(len(rows), index):
        if rows[other].prompt == row.prompt and mismatched(row, rows[other], max_length):
            return other
    raise nothing_fits(row, max_length)


def _following(count: int, index: int) -> Iterator[int]:
    return ((index + distance) % count for distance in range(1, count))
