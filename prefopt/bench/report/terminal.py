"""The summary for a terminal, within 80 columns."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prefopt.bench.report import tables, wording
from prefopt.bench.report.wording import Record

_WIDTH = 80
_NUM_FAILURES = 10
_SHOWN = ("method", "area", "best", "rank")
_MARKS = {"best": "*", "tied": "=", "bound": "^", "behind": " "}
_KEY = "* best  = no difference found  ^ reads the true reward  + not on all tasks"


def print_summary(records: Iterable[Record], console: Console) -> None:
    """The leaderboard, the differences that could have been found, and what failed.

    Raises:
        ConfigError: there are no records.
    """
    results = wording.computed(records)
    width = min(_WIDTH, console.width)
    board = tables.leaderboard(results)
    if board is None:
        _say(console, width, "No task with a known optimum has run, so there is no leaderboard.")
    else:
        console.print(_leaderboard(board), width=width)
        for sentence in (_KEY, board.verdict, board.power):
            _say(console, width, sentence)
    for setting in results.settings:
        if not setting.has_optimum:
            _say(console, width, f"{setting.label}: {tables.of_setting(results, setting).verdict}")
    failures = list(dict.fromkeys(wording.omission(found, results, with_split=False) for found in results.failed))
    for sentence in failures[:_NUM_FAILURES]:
        _say(console, width, f"failed: {sentence}")
    if len(failures) > _NUM_FAILURES:
        _say(console, width, f"{len(failures) - _NUM_FAILURES} more failed; see the page")
    if results.missing:
        _say(
            console,
            width,
            f"{wording.counted(len(results.missing), 'remark')} on what is not in the numbers: see the page",
        )


def _leaderboard(board: tables.Table) -> Table:
    shown = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    shown.add_column("", no_wrap=True)
    for column in board.columns:
        if column.key in _SHOWN:
            shown.add_column(column.title, overflow="fold", justify="right" if column.key == "rank" else "left")
    for line in board.lines:
        mark = _MARKS[line.kind] + ("+" if line.partial else "")
        fields = [Text(line.fields[key].text) for key in _SHOWN]
        shown.add_row(Text(mark), *fields, style="bold" if line.kind in ("best", "tied") else "")
    return shown


def _say(console: Console, width: int, text: str) -> None:
    console.print(Text(text), width=width)
