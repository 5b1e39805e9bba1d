"""The summary for a terminal, within 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prefopt.report import tables
from prefopt.report.reading import Run

_WIDTH = 80
_RUNS_ABREAST = 3
_NUM_REMARKS = 5


def print_summary(runs: Sequence[Run], console: Console) -> None:
    """What the runs came to, in which settings they differ, and what there is to remark."""
    width = min(_WIDTH, console.width)
    for start in range(0, len(runs), _RUNS_ABREAST):
        part = slice(start, start + _RUNS_ABREAST)
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        table.add_column("", overflow="fold")
        for run in runs[part]:
            table.add_column(Text(run.label, overflow="fold"), overflow="fold")
        different = tables.differences(runs) if len(runs) > 1 else []
        for line in [*tables.summary(runs), *different]:
            table.add_row(Text(line.name), *map(Text, line.texts[part]))
        console.print(table, width=width)
    if tables.different_units(runs):
        _say(console, width, "The runs differ in their loss: losses, rewards and margins are in different units.")
    remarks = [f"{run.label}: {remark}" for run in runs for remark in run.remarks]
    for remark in remarks[:_NUM_REMARKS]:
        _say(console, width, remark)
    if len(remarks) > _NUM_REMARKS:
        _say(console, width, f"{len(remarks) - _NUM_REMARKS} more remarks: see the page")


def _say(console: Console, width: int, text: str) -> None:
    console.print(Text(text), width=width)
