"""The data room's door: any accepted source of rows -> tokenised rows and a report of what became of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from prefopt.data.bad_row import BadRow
from prefopt.data.columns import TextRow, equal, read_row
from prefopt.data.report import DataReport
from prefopt.data.row import Completion, Row
from prefopt.data.sources import RawRow, Source, read_rows, source_name
from prefopt.data.tokenization import RowTokenizer, TokenisedRow
from prefopt.data.truncation import truncate
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
    """Reads, checks, tokenises and truncates every row of a source.

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
    """The usable rows of a source, one at a time, for sources that do not fit into memory; to be read once."""

    def __init__(
        self,
        source: Source,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        on_bad_row: Literal["error", "skip"] = "error",
    ) -> None:
        """Open nothing yet.

        Args:
            source: As `load_rows`.
            tokenizer: The policy's.
            max_length: Most tokens of a prompt with any one of its completions, at least 2.
            on_bad_row: `error` stops at the first row that cannot be used; `skip` drops and counts it.

        Raises:
            DataError: `max_length` holds no row.
        """
        if max_length < 2:
            raise DataError(f"max_length is {max_length}; it must hold a token of prompt and one of completion")
        self._source = source
        self._name = source_name(source)
        self._tokenise = RowTokenizer(tokenizer)
        self._max_length = max_length
        self._on_bad_row = on_bad_row
        self._first: Row | None = None
        self._num_kept = self._num_prompt_tokens = self._num_completion_tokens = 0
        self._dropped: dict[int, str] = {}
        self._truncated: list[int] = []
        self._shifted: list[int] = []
        self._ignored: dict[str, None] = {}  # a set that keeps the order

    def __iter__(self) -> Iterator[Row]:
        """Each usable row.

        Raises:
            DataError: As `load_rows`.
        """
        for number, raw in read_rows(self._source):
            try:
                row = self._read(number, raw)
            except BadRow as bad:
                if self._on_bad_row == "error":
                    raise DataError(f"{self._name} row {number}: {bad}") from bad
                self._dropped[number] = str(bad)
                continue
            self._first = self._first or row
            self._num_kept += 1
            self._num_prompt_tokens += len(row.prompt)
            self._num_completion_tokens += sum(len(own.ids) for own in row.completions)
            yield row
        if self._first is None:
            raise DataError(_nothing(self._name, self._dropped))

    def report(self) -> DataReport:
        """What became of the rows, once all are read."""
        assert self._first is not None
        return DataReport(
            source=self._name,
            kind=self._first.kind,
            num_rows=self._num_kept + len(self._dropped),
            num_kept=self._num_kept,
            dropped=self._dropped,
            truncated=tuple(self._truncated),
            shifted=tuple(self._shifted),
            ignored_columns=tuple(self._ignored),
            num_prompt_tokens=self._num_prompt_tokens,
            num_completion_tokens=self._num_completion_tokens,
        )

    def _read(self, number: int, raw: RawRow) -> Row:
        text, first = read_row(raw), self._first
        if first is not None and text.kind != first.kind:
            raise BadRow(f"is a row of {text.kind}, while row {first.number} is one of {first.kind}")
        whole = self._tokenise(text)
        row = _row(self._name, number, text, whole, self._max_length)
        if (row.prompt, row.completions) != (whole.prompt, whole.completions):
            self._truncated.append(number)
        if whole.shifted:
            self._shifted.append(number)
        self._ignored.update(dict.fromkeys(text.ignored))
        return row


def _row(source: str, number: int, text: TextRow, whole: TokenisedRow, max_length: int) -> Row:
    if _all_equal(whole.completions):
        raise BadRow(f"{equal(text.kind)} once tokenised")
    prompt, completions = truncate(whole.prompt, whole.completions, max_length)
    if _all_equal(completions):
        raise BadRow(f"{equal(text.kind)} after truncation to {max_length} tokens")
    if _contradict(completions):
        raise BadRow("the same completion stands there twice, with different scores")
    if not all(completion.num_scored for completion in completions):
        raise BadRow(f"a completion has no scored token after truncation to {max_length} tokens")
    return Row(
        text.kind,
        source,
        number,
        prompt,
        completions,
        desirable=text.desirable,
        weight=text.weight,
        undesirable_weight=text.undesirable_weight,
    )


def _all_equal(completions: Sequence[Completion]) -> bool:
    return len(completions) > 1 and all(other.ids == completions[0].ids for other in completions)


def _contradict(completions: Sequence[Completion]) -> bool:
    scores: dict[tuple[int, ...], float | None] = {}
    return any(scores.setdefault(own.ids, own.score) != own.score for own in completions)


def _nothing(name: str, dropped: dict[int, str]) -> str:
    if not dropped:
        return f"{name} has no rows"
    number, reason = next(iter(dropped.items()))
    return f"{name} has no usable row; row {number}, the first of {len(dropped)}: {reason}"
