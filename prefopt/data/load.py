"""The data room's door: any accepted source of rows -> tokenised rows and a report of what became of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from prefopt.data.bad_row import BadRow
from prefopt.data.columns import TextRow, equal, read_row
from prefopt.data.report import DataReport
from prefopt.data.row import Completion, Row
from prefopt.data.sources import Source, read_rows, source_name
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
    if max_length < 2:
        raise DataError(f"max_length is {max_length}; it must hold a token of prompt and one of completion")
    name = source_name(source)
    tokenise = RowTokenizer(tokenizer)
    rows: list[Row] = []
    dropped: dict[int, str] = {}
    truncated: list[int] = []
    shifted: list[int] = []
    ignored: dict[str, None] = {}  # a set that keeps the order
    for number, raw in read_rows(source):
        try:
            text = read_row(raw)
            if rows and text.kind != rows[0].kind:
                raise BadRow(f"is a row of {text.kind}, while row {rows[0].number} is one of {rows[0].kind}")
            whole = tokenise(text)
            row = _row(name, number, text, whole, max_length)
        except BadRow as bad:
            if on_bad_row == "error":
                raise DataError(f"{name} row {number}: {bad}") from bad
            dropped[number] = str(bad)
            continue
        rows.append(row)
        if (row.prompt, row.completions) != (whole.prompt, whole.completions):
            truncated.append(number)
        if whole.shifted:
            shifted.append(number)
        ignored.update(dict.fromkeys(text.ignored))
    if not rows:
        raise DataError(_nothing(name, dropped))
    report = DataReport(
        source=name,
        kind=rows[0].kind,
        num_rows=len(rows) + len(dropped),
        num_kept=len(rows),
        dropped=dropped,
        truncated=tuple(truncated),
        shifted=tuple(shifted),
        ignored_columns=tuple(ignored),
        num_prompt_tokens=sum(len(row.prompt) for row in rows),
        num_completion_tokens=sum(len(own.ids) for row in rows for own in row.completions),
    )
    return rows, report


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
    return Row(text.kind, source, number, prompt, completions, text.desirable, text.weight)


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
