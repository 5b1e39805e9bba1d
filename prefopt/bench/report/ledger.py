"""The list of all cells, so that every number can be traced to what it was computed from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prefopt.bench.report import wording
from prefopt.bench.report.wording import Record
from prefopt.bench.results import Results, Score


@dataclass(frozen=True)
class Entry:
    """One cell; `selected`: the trials that were selected on validation, at which steps."""

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
    selected = {cell: _selected(score) for score in results.scores.values() for cell in score.cells}
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


def _selected(score: Score) -> tuple[str, ...]:
    steps: dict[int, list[int]] = {}
    for point in score.points:
        steps.setdefault(point.trial, []).append(point.step)
    values = {point.trial: wording.hyperparameters(point.hyperparameters) for point in score.points}
    return tuple(
        f"trial {trial} at {', '.join(map(str, sorted(steps[trial])))}: {values[trial]}" for trial in sorted(steps)
    )
