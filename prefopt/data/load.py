"""The data room's door: any accepted source of rows -> tokenised rows and a report of what became of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Literal

from prefopt.data.processes import read_with
from prefopt.data.reading import RowReader
from prefopt.data.report import DataReport, Tally
from prefopt.data.row import Row
from prefopt.data.sources import Source, read_rows, source_name
from prefopt.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_rows(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    on_bad_row: Literal["error", "skip"] = "error",
) -> tuple[list[Row], DataReport]:
    """Reads, checks, tokenises and truncates every row of a source, into memory.

    `prefopt.data.cached.open_rows` gives the same rows from disk.

    Args:
        source: A file, folder, dataset id, dataset or list; `prefopt.data.sources.read_rows` lists them.
        tokenizer: The policy's.
        max_length: Most tokens of a prompt with any one of its completions, at least 2.
        on_bad_row: `error` stops at the first row that cannot be used; `skip` drops and counts it.

    Returns:
        The usable rows in the source's order, and what was dropped, cut, shifted and ignored.

    Raises:
        DataError: The source cannot be read or has no usable row, a row cannot be used (with `error`), or the
            tokenizer cannot serve these rows.
    """
    stream = RowStream(source, tokenizer, max_length=max_length, on_bad_row=on_bad_row)
    return list(stream), stream.report()


class RowStream:
    """The usable rows of a source, one at a time, in memory that does not grow with them; to be read once."""

    def __init__(
        self,
        source: Source,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        on_bad_row: Literal["error", "skip"] = "error",
        num_proc: int = 1,
        streaming: bool = False,
        listing: IO[str] | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            source: As `load_rows`.
            tokenizer: The policy's.
            max_length: Most tokens of a prompt with any one of its completions, at least 2.
            on_bad_row: `error` stops at the first row that cannot be used; `skip` drops and counts it.
            num_proc: Processes that tokenise; the rows are the same.
            streaming: Read a dataset id as its rows come, without downloading it.
            listing: Is written a line for every row that is dropped, truncated or shifted.

        Raises:
            DataError: `max_length` holds no row.
        """
        if max_length < 2:
            raise DataError(f"max_length is {max_length}; it must hold a token of prompt and one of completion")
        self._source = source
        self._name = source_name(source)
        self._reader = RowReader(self._name, tokenizer, max_length)
        self._on_bad_row = on_bad_row
        self._num_proc = num_proc
        self._streaming = streaming
        self._tally = Tally(self._name, listing)

    def __iter__(self) -> Iterator[Row]:
        """Each usable row.

        Raises:
            DataError: As `load_rows`.
        """
        tally = self._tally
        for outcome in read_with(self._reader, read_rows(self._source, streaming=self._streaming), self._num_proc):
            number, row, reason = outcome.number, outcome.row, outcome.reason
            first = tally.first
            if first is not None and outcome.kind not in (None, first.kind):
                row, reason = None, f"is a row of {outcome.kind}, while row {first.number} is one of {first.kind}"
            elif outcome.fatal:
                raise DataError(reason)
            if row is not None:
                tally.keep(row, truncated=outcome.truncated, shifted=outcome.shifted, ignored=outcome.ignored)
                yield row
            elif self._on_bad_row == "error":
                raise DataError(f"{self._name} row {number}: {reason}")
            else:
                tally.drop(number, reason)
        if tally.first is None:
            raise DataError(self._nothing())

    @property
    def num_rows(self) -> int:
        """Rows read so far, usable or not."""
        return self._tally.num_rows

    def report(self, listing: str | None = None) -> DataReport:
        """What became of the rows read so far, at least one of which was usable.

        Args:
            listing: Where the listing is to be found, should a list have more than the report holds.
        """
        return self._tally.report(listing)

    def _nothing(self) -> str:
        if not self._tally.dropped:
            return f"{self._name} has no rows"
        number, reason = next(iter(self._tally.dropped.items()))
        return f"{self._name} has no usable row; row {number}, the first of {self._tally.num_dropped}: {reason}"
