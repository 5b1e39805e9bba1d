"""Mismatched completions of a stream: from the rows that follow, of which it need not hold many."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from prefopt.data.mismatch import alone, mismatched, nothing_fits
from prefopt.data.row import Completion, Row

NUM_AHEAD = 1024


def with_mismatched(
    rows: Iterable[Row], *, max_length: int, alike: Callable[[int], None] = lambda number: None
) -> Iterator[Row]:
    """Gives each row what `add_mismatched` gives it, wherever that is among the next 1,024 rows.

    Where none of those will do, it gets the completions of the next row of its own prompt. The last rows find theirs
    among the first 1,024.

    Args:
        rows: The rows of a source in order, after truncation to `max_length`.
        max_length: Tokens of prompt and completion together.
        alike: Is told the number of every row that gets completions of its own prompt.

    Raises:
        DataError: There is one row only, or nothing fits behind a row's prompt.
    """
    waiting: deque[_Waiting] = deque()
    head: list[Row] = []
    for row in rows:
        if len(head) < NUM_AHEAD:
            head.append(row)
        for other in waiting:
            other.meet(row, max_length)
        waiting.append(_Waiting(row))
        while waiting and (waiting[0].found or len(waiting) > NUM_AHEAD):
            yield waiting.popleft().matched(max_length, alike)
    if len(head) == 1:
        raise alone(head[0])
    for own in waiting:
        for row in head:  # the order wraps round, up to the row itself
            if row.number == own.row.number:
                break
            own.meet(row, max_length)
    yield from (own.matched(max_length, alike) for own in waiting)


@dataclass
class _Waiting:
    """A row and what the rows that followed have brought it."""

    row: Row
    found: tuple[Completion, ...] = ()
    of_same_prompt: tuple[Completion, ...] = ()

    def meet(self, other: Row, max_length: int) -> None:
        if self.found:
            return
        if other.prompt != self.row.prompt:
            self.found = mismatched(self.row, other, max_length)
        elif not self.of_same_prompt:
            self.of_same_prompt = mismatched(self.row, other, max_length)

    def matched(self, max_length: int, alike: Callable[[int], None]) -> Row:
        if not self.found and not self.of_same_prompt:
            raise nothing_fits(self.row, max_length)
        if not self.found:
            alike(self.row.number)
        return replace(self.row, mismatched=self.found or self.of_same_prompt)
