"""The records as one HTML file that needs nothing else: it loads no file, no font and nothing from a network."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from prefopt.bench.report import ledger, tables, wording
from prefopt.bench.report.figures import figures
from prefopt.bench.report.wording import Record
from prefopt.report import html


def write(records: Iterable[Record], path: Path, landmarks: Collection[str] = ()) -> None:
    """Write the page, whole or not at all.

    Args:
        records: of the cells.
        path: of the file.
        landmarks: methods that readers know, whose curves are visible from the start beside the best few.

    Raises:
        ConfigError: there are no records, or the file cannot be written.
    """
    html.write(page(records, landmarks), path)


def page(records: Iterable[Record], landmarks: Collection[str] = ()) -> str:
    """The page's HTML.

    Raises:
        ConfigError: there are no records.
    """
    kept = list(records)
    results = wording.computed(kept)
    boards = [(setting, tables.of_setting(results, setting)) for setting in results.settings]
    leaderboard = tables.leaderboard(results)
    shown = [table for table in (leaderboard, *(table for _, table in boards)) if table]
    return html.render(
        "prefopt.bench.report",
        styles=("base.css", "page.css"),
        scripts=("theme.js", "plotting.js", "plots.js", "panel.js", "tables.js"),
        results=results,
        facts=wording.facts(results),
        how_to_read=wording.how_to_read(results.totals, results.settings),
        omission=wording.omission,
        leaderboard=leaderboard,
        columns={column.title: column.explanation for table in shown for column in table.columns},
        sections=[
            ("tasks", "Tasks with a known optimum", [entry for entry in boards if entry[0].has_optimum]),
            ("language-models", "Language models", [entry for entry in boards if not entry[0].has_optimum]),
        ],
        pairs=results.pairs,
        wording=wording,
        ledger=ledger.ledger(kept, results),
        figures=figures(results, landmarks),
    )
