"""One raw row -> one row of token ids, or why there is none: a function of nothing but the row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefopt.data.bad_row import BadRow
from prefopt.data.columns import TextRow, equal, read_row
from prefopt.data.row import Completion, Row
from prefopt.data.sources import RawRow
from prefopt.data.tokenization import RowTokenizer, TokenisedRow
from prefopt.data.truncation import truncate
from prefopt.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from prefopt.batch import RowKind


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one raw row.

    Attributes:
        number: Its position in its source, from 1.
        kind: What its columns make of it; None where they make nothing.
        row: It, or None where it cannot be used.
        reason: Why it cannot be used.
        fatal: Whether no other row can be used either: the tokenizer lacks what such rows need.
        truncated: Whether it lost tokens.
        shifted: Whether its prompt has other last tokens than within the whole.
        ignored: The names of the columns that were not read.
    """

    number: int
    kind: RowKind | None = None
    row: Row | None = None
    reason: str = ""
    fatal: bool = False
    truncated: bool = False
    shifted: bool = False
    ignored: tuple[str, ...] = ()


class RowReader:
    """Checks, tokenises and truncates raw rows, in this process or another."""

    def __init__(self, source: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        """Take the settings.

        Args:
            source: The source's name.
            tokenizer: The policy's.
            max_length: Most tokens of a prompt with any one of its completions, at least 2.
        """
        self._source = source
        self._tokenise = RowTokenizer(tokenizer)
        self._max_length = max_length

    def __call__(self, numbered: tuple[int, RawRow]) -> Outcome:
        """What becomes of a row, given with its number."""
        number, raw = numbered
        kind = None
        try:
            text = read_row(raw)
            kind = text.kind
            whole = self._tokenise(text)
            row = _row(self._source, number, text, whole, self._max_length)
        except BadRow as bad:
            return Outcome(number, kind, reason=str(bad))
        except DataError as error:
            return Outcome(number, kind, reason=str(error), fatal=True)
        truncated = (row.prompt, row.completions) != (whole.prompt, whole.completions)
        return Outcome(number, kind, row, truncated=truncated, shifted=whole.shifted, ignored=text.ignored)


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
