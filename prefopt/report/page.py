"""The curves of one or several runs as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefopt.errors import ConfigError
from prefopt.report import html, tables
from prefopt.report.figures import figures, steps_a_point
from prefopt.report.panels import panels
from prefopt.report.reading import Run

_MARK = '<meta name="generator" content="prefopt report">'


def write(runs: Sequence[Run], path: Path) -> None:
    """Write the page, whole or not at all; an earlier one of ours is replaced.

    Raises:
        ConfigError: there is something else in its place, or it cannot be written.
    """
    if path.is_dir():
        raise ConfigError(f"--output {str(path)!r} is a folder; name a file in it")
    if path.exists() and _MARK not in path.read_bytes()[:4096].decode(errors="replace"):
        raise ConfigError(f"{str(path)!r} exists and is no page of `prefopt report`; choose another --output")
    html.write(page(runs), path)


def page(runs: Sequence[Run]) -> str:
    """The page's HTML."""
    averaged = [
        f"{run.label}: each point is the mean of {size} steps, so that the page stays small"
        for run in runs
        if (size := steps_a_point(run)) > 1
    ]
    return html.render(
        "prefopt.report",
        styles=("base.css", "page.css"),
        scripts=("theme.js", "plotting.js", "curves.js"),
        mark=_MARK,
        runs=runs,
        summary=tables.summary(runs),
        differences=tables.differences(runs) if len(runs) > 1 else [],
        different_units=tables.different_units(runs),
        remarks=[f"{run.label}: {remark}" for run in runs for remark in run.remarks] + averaged,
        panels=panels(runs),
        figures=figures(runs),
    )
