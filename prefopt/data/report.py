"""What became of a source's rows: nothing is dropped, cut or ignored without being counted and listed."""

from __future__ import annotations

import json
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefopt.batch import RowKind
    from prefopt.data.row import Row

NUM_LISTED = 10_000  # of each list of rows: what a report holds in memory; all of them stand in the listing
_WIDTH = 80
_NUM_REASONS = 5


@dataclass(frozen=True)
class DataReport:
    """What became of the rows of a source.

    Attributes:
        source: Where the rows came from, as the user wrote it.
        kind: What they are.
        num_rows: Rows read.
        num_kept: Rows that can be used.
        dropped: Row number -> reason.
        truncated: Numbers of the kept rows that lost tokens.
        shifted: Numbers of the kept rows whose last prompt tokens differ once a completion follows.
        ignored_columns: Columns of the kept rows that hold values and were not read, in order of appearance.
        num_prompt_tokens: Over the kept rows.
        num_completion_tokens: Over the completions of the kept rows, scored or not.
        num_more: How many rows each of `dropped`, `truncated` and `shifted` has beyond the 10,000 it holds; only those
            that have more.
        listing: A JSONL file of every row that was dropped, truncated or shifted, where a list has more.
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
    num_more: Mapping[str, int] = field(default_factory=dict)
    listing: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Everything it holds, in the types of JSON."""
        dropped = {str(number): reason for number, reason in self.dropped.items()}
        lists = {name: list(getattr(self, name)) for name in ("truncated", "shifted", "ignored_columns")}
        return {**asdict(self), **lists, "dropped": dropped, "num_more": dict(self.num_more)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **changed: Any) -> DataReport:
        """What `as_dict` gave, with other values for some attributes."""
        dropped = {int(number): reason for number, reason in values["dropped"].items()}
        lists = {name: tuple(values[name]) for name in ("truncated", "shifted", "ignored_columns")}
        return cls(**{**values, **lists, "dropped": dropped, **changed})

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
        if "dropped" in self.num_more:
            lines.append(f"{_rows(self.num_more['dropped'])} more dropped")
        if self.truncated:
            lines.append(_listed(self.truncated, "truncated", self.num_more.get("truncated", 0)))
        if self.shifted:
            lines.append(_listed(self.shifted, "with a shifted prompt boundary", self.num_more.get("shifted", 0)))
        if self.listing:
            lines.append(f"all of them are listed in {self.listing}")
        if self.ignored_columns:
            lines.append(f"columns not read: {', '.join(self.ignored_columns)}")
        return [piece for line in lines for piece in textwrap.wrap(line, _WIDTH, subsequent_indent="  ")]


class Tally:
    """Counts and lists rows while they are read, in memory that does not grow with them."""

    def __init__(self, source: str, listing: IO[str] | None = None) -> None:
        """Begin at nothing.

        Args:
            source: The source's name.
            listing: Is written a line for every row that is dropped, truncated or shifted.
        """
        self._source = source
        self._listing = listing
        self.first: Row | None = None
        self.dropped: dict[int, str] = {}
        self._lists: dict[str, list[int]] = {"truncated": [], "shifted": []}
        self._more = {"dropped": 0, "truncated": 0, "shifted": 0}
        self._ignored: dict[str, None] = {}  # a set that keeps the order
        self.num_rows = self._num_kept = self._num_prompt_tokens = self._num_completion_tokens = 0

    @property
    def num_dropped(self) -> int:
        """Rows that cannot be used."""
        return len(self.dropped) + self._more["dropped"]

    def drop(self, number: int, reason: str) -> None:
        """Count a row that cannot be used."""
        self.num_rows += 1
        if len(self.dropped) < NUM_LISTED:
            self.dropped[number] = reason
        else:
            self._more["dropped"] += 1
        self._list(number, "dropped", reason=reason)

    def keep(self, row: Row, *, truncated: bool, shifted: bool, ignored: Sequence[str]) -> None:
        """Count a row that can."""
        self.first = self.first or row
        self.num_rows += 1
        self._num_kept += 1
        self._num_prompt_tokens += len(row.prompt)
        self._num_completion_tokens += sum(len(own.ids) for own in row.completions)
        self._ignored.update(dict.fromkeys(ignored))
        for name, is_so in (("truncated", truncated), ("shifted", shifted)):
            if not is_so:
                continue
            if len(self._lists[name]) < NUM_LISTED:
                self._lists[name].append(row.number)
            else:
                self._more[name] += 1
            self._list(row.number, name)

    def report(self, listing: str | None = None) -> DataReport:
        """What became of the rows so far, at least one of which was kept.

        Args:
            listing: Where the listing is to be found, should a list have more than the report holds.
        """
        assert self.first is not None
        more = {name: count for name, count in self._more.items() if count}
        return DataReport(
            source=self._source,
            kind=self.first.kind,
            num_rows=self.num_rows,
            num_kept=self._num_kept,
            dropped=dict(self.dropped),
            truncated=tuple(self._lists["truncated"]),
            shifted=tuple(self._lists["shifted"]),
            ignored_columns=tuple(self._ignored),
            num_prompt_tokens=self._num_prompt_tokens,
            num_completion_tokens=self._num_completion_tokens,
            num_more=more,
            listing=listing if more else None,
        )

    def _list(self, number: int, what: str, **reason: str) -> None:
        if self._listing is not None:
            line = {"source": self._source, "row": number, "what": what, **reason}
            self._listing.write(json.dumps(line) + "\n")


def _listed(numbers: Sequence[int], what: str, num_more: int = 0) -> str:
    return f"{_rows(len(numbers) + num_more)} {what} ({_abbreviated(numbers, num_more)})"


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def _abbreviated(numbers: Sequence[int], num_more: int) -> str:
    if len(numbers) <= 4 and not num_more:
        return ", ".join(map(str, numbers))
    return f"{', '.join(map(str, numbers[:3]))} and {len(numbers) - 3 + num_more:,} more"
