"""The list of all cells, so that every number can be traced to what it was computed from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prefopt.bench.report import wording
from prefopt.bench.report.wording import Record
from prefopt.bench.results import Results


@dataclass(frozen=True)
class Entry:
    """One cell; `selected` are the settings of the trials whose points were selected on validation."""

    cell: str
    task: str
    knobs: str
    method: str
    split: str
    status: str
    error: str
    seconds: float
    selected: tuple[str, ...]


def ledger(records: Iterable[Record], results: Results) -> list[Entry]:
    """All cells by task, knobs, method and split; of a cell recorded more than once the last record."""
    latest = {record["cell"]: record for record in records}
    selected = {
        cell: tuple(
            f"trial {point.trial}, step {point.step}: {wording.hyperparameters(point.hyperparameters)}".removesuffix(
                ": "
            )
            for point in score.points
        )
        for score in results.scores.values()
        for cell in score.cells
    }
    entries = [
        Entry(
            cell=cell,
            task=record["task"],
            knobs=wording.settings_in_words(record["knobs"]),
            method=record["method"],
            split=record["split"],
            status=record["status"],
            error=record["error"] or "",
            seconds=record["seconds"],
            selected=selected.get(cell, ()),
        )
        for cell, record in latest.items()
    ]
    return sorted(entries, key=lambda entry: (entry.task, entry.knobs, entry.method, entry.split))
