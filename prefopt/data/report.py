"""What became of a source's rows: nothing is dropped, cut or ignored without being listed here."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefopt.batch import RowKind

_WIDTH = 80
_NUM_REASONS = 5


@dataclass(frozen=True)
class DataReport:
    """What `load_rows` did.

    Attributes:
        source: Where the rows came from, as the user wrote it.
        kind: What they are.
        num_rows: Rows read.
        num_kept: Rows returned.
        dropped: Row number -> reason.
        truncated: Numbers of the kept rows that lost tokens.
        shifted: Numbers of the kept rows whose last prompt tokens differ once a completion follows.
        ignored_columns: Columns of the kept rows that hold values and were not read, in order of appearance.
        num_prompt_tokens: Over the kept rows.
        num_completion_tokens: Over the completions of the kept rows, scored or not.
    """

    source: str
    kind: RowKind
    num_rows: int
    num_kept: int
    dropped: Mapping[int, str]
    truncated: tuple[int, ...]
    shifted: tuple[int, ...]
    ignored_columns: tuple[str, ...]
    num_prompt_tokens: int
    num_completion_tokens: int

    def as_dict(self) -> dict[str, Any]:
        """Everything, complete, in the types of JSON."""
        dropped = {str(number): reason for number, reason in self.dropped.items()}
        lists = {name: list(getattr(self, name)) for name in ("truncated", "shifted", "ignored_columns")}
        return {**asdict(self), **lists, "dropped": dropped}

    def lines(self) -> list[str]:
        """The same for the terminal: at most 80 columns a line, long lists of rows abbreviated."""
        lines = [
            f"{self.source}: {self.num_kept:,} of {_rows(self.num_rows)} kept, read as {self.kind}",
            f"{self.num_prompt_tokens:,} prompt tokens, {self.num_completion_tokens:,} completion tokens",
        ]
        by_reason = defaultdict(list)
        for number, reason in self.dropped.items():
            by_reason[reason].append(number)
        most_frequent = sorted(by_reason.items(), key=lambda item: -len(item[1]))
        lines += [_listed(numbers, f"dropped: {reason}") for reason, numbers in most_frequent[:_NUM_REASONS]]
        rest = sorted(number for _, numbers in most_frequent[_NUM_REASONS:] for number in numbers)
        if rest:
            lines.append(_listed(rest, "dropped for other reasons"))
        if self.truncated:
            lines.append(_listed(self.truncated, "truncated"))
        if self.shifted:
            lines.append(_listed(self.shifted, "with a shifted prompt boundary"))
        if self.ignored_columns:
            lines.append(f"columns not read: {', '.join(self.ignored_columns)}")
        return [piece for line in lines for piece in textwrap.wrap(line, _WIDTH, subsequent_indent="  ")]


def _listed(numbers: Sequence[int], what: str) -> str:
    return f"{_rows(len(numbers))} {what} ({_abbreviated(numbers)})"


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def _abbreviated(numbers: Sequence[int]) -> str:
    if len(numbers) <= 4:
        return ", ".join(map(str, numbers))
    return f"{', '.join(map(str, numbers[:3]))} and {len(numbers) - 3:,} more"
