"""A source whose rows are read while the run goes on: nothing of it is known before but its first rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prefopt.data.load import RowStream
from prefopt.data.lookahead import with_mismatched
from prefopt.data.report import DataReport
from prefopt.data.row import Row
from prefopt.data.sources import Source, source_name
from prefopt.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NUM_SAMPLED = 64


class StreamedSource:
    """The rows of a source, as often as they are asked for, in its order; its first ones may be held out."""

    def __init__(
        self,
        source: Source,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        on_bad_row: Literal["error", "skip"],
        num_held_out: int = 0,
        mismatched: bool = False,
        check: Callable[[Row], None] = lambda row: None,
        listing: Path | None = None,
    ) -> None:
        """Read nothing yet.

        Args:
            source: As `load_rows`; it can be read more than once.
            tokenizer: The policy's.
            max_length: Most tokens of a prompt with any one of its completions, at least 2.
            on_bad_row: `error` stops at the first row that cannot be used; `skip` drops and counts it.
            num_held_out: How many of the usable rows at its beginning are no training rows.
            mismatched: Whether rows need mismatched completions.
            check: Refuses a row.
            listing: A JSONL file for every row that is dropped, truncated or shifted, written when the rows are read in
                earnest; None: the report holds the first 10,000.
        """
        self._source = source
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._on_bad_row = on_bad_row
        self._num_held_out = num_held_out
        self._mismatched = mismatched
        self._check = check
        self._listing = listing
        self._begun = False
        self._readings: list[RowStream] = []
        self._labels: set[bool | None] = set()
        self._alike: set[int] = set()

    @cached_property
    def held_out(self) -> list[Row]:
        """Its first rows.

        Raises:
            DataError: As `load_rows`, or it has no more rows than these.
        """
        if not self._num_held_out:
            return []
        rows = list(islice(self._read(None), self._num_held_out + 1))
        if len(rows) <= self._num_held_out:
            raise DataError(
                f"{source_name(self._source)}: data.evaluation would hold out every one of its {len(rows)} rows"
            )
        return rows[:-1]

    @cached_property
    def sample(self) -> list[Row]:
        """Its first training rows."""
        return list(islice(self._training_rows(self._read(None)), _NUM_SAMPLED))

    def rows(self) -> Iterator[Row]:
        """Its training rows from the beginning.

        Raises:
            ConfigError, DataError: As `load_rows`, or `check` refuses a row.
        """
        if self._begun:  # another pass has nothing new to list
            return self._training_rows(self._read(None))
        self._begun = True
        self._readings, self._labels, self._alike = [], set(), set()  # what was read ahead is read again
        return self._training_rows(self._read(self._listing))

    def report(self) -> DataReport:
        """What became of its rows, as far as they were read."""
        return self._furthest().report(None if self._listing is None else str(self._listing))

    def notes(self) -> list[str]:
        """What else there is to say of the rows that were read."""
        name, notes = source_name(self._source), []
        if self._alike:
            notes.append(
                f"{name}: {len(self._alike):,} rows found no other prompt among those that follow: their mismatched "
                "completion is of the same prompt"
            )
        if len(self._labels) == 1 and None not in self._labels:
            which = "desirable (label true)" if True in self._labels else "undesirable (label false)"
            notes.append(f"{name}: all rows that were read are {which}, so nothing was there to tell them from")
        return notes

    def _furthest(self) -> RowStream:
        return max(self._readings, key=lambda reading: reading.num_rows)

    def _read(self, listing: Path | None) -> Iterator[Row]:
        with nullcontext() if listing is None else listing.open("w", encoding="utf-8") as file:
            reading = RowStream(
                self._source,
                self._tokenizer,
                max_length=self._max_length,
                on_bad_row=self._on_bad_row,
                streaming=True,
                listing=file,
            )
            # of earlier readings the one that went furthest is worth keeping
            self._readings = [*([self._furthest()] if self._readings else []), reading]
            for row in reading:
                self._check(row)
                self._labels.add(row.desirable)
                yield row

    def _training_rows(self, rows: Iterator[Row]) -> Iterator[Row]:
        rows = islice(rows, self._num_held_out, None)
        if self._mismatched:
            rows = map(self._checked, with_mismatched(rows, max_length=self._max_length, alike=self._alike.add))
        first = next(rows, None)
        if first is None:
            raise DataError(f"{source_name(self._source)}: no row is left to train on")
        yield from chain([first], rows)

    def _checked(self, row: Row) -> Row:
        self._check(row)
        return row
