"""Sequences of rows that hold none themselves: each row is built when it is asked for."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import overload

from prefopt.data.row import Row


class RowView(Sequence[Row]):
    """A sequence by one method, `at`."""

    @abstractmethod
    def at(self, index: int) -> Row:
        """The row at `index`, from 0 up to the length."""

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        places = range(len(self))[index]
        return self.at(places) if isinstance(places, int) else [self.at(place) for place in places]


class Joined(RowView):
    """Several sequences of rows, one after the other."""

    def __init__(self, parts: Sequence[Sequence[Row]]) -> None:
        """Take the parts as they are."""
        self._parts = parts
        self._starts = [0, *accumulate(map(len, parts))]

    def __len__(self) -> int:
        return self._starts[-1]

    def at(self, index: int) -> Row:
        """The row, from the part it is in."""
        part = bisect_right(self._starts, index) - 1
        return self._parts[part][index - self._starts[part]]


class Without(RowView):
    """The rows but those at some places."""

    def __init__(self, rows: Sequence[Row], places: Sequence[int]) -> None:
        """Leave out `places`, which ascend."""
        self._rows = rows
        # what stands before each place that is left out: a row's index there, less those left out before
        self._before = [place - count for count, place in enumerate(places)]

    def __len__(self) -> int:
        return len(self._rows) - len(self._before)

    def at(self, index: int) -> Row:
        """The row at the index that it has once the others are gone."""
        return self._rows[index + bisect_right(self._before, index)]


class At(RowView):
    """The rows at some places."""

    def __init__(self, rows: Sequence[Row], places: Sequence[int]) -> None:
        """Take them in the order of `places`."""
        self._rows = rows
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def at(self, index: int) -> Row:
        """The row at one of the places."""
        return self._rows[self._places[index]]
