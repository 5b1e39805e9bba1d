"""`prefopt report`."""

from __future__ import annotations

import os
import webbrowser
from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Output folders of runs, finished or not.")],
    output: Annotated[
        str | None,
        typer.Option(
            "--output", metavar="PAGE.html", help="Of the page; report.html in the run's folder, or beside the runs'."
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show the page in a browser.")] = False,
) -> None:
    """Show the curves of runs side by side on a page, and sum them up."""
    from rich.console import Console

    from prefopt.report import print_summary, read_runs, write

    found = read_runs([Path(run) for run in runs])
    page = Path(output) if output else _beside([run.folder for run in found]) / "report.html"
    write(found, page)
    console = Console(markup=False, highlight=False)
    print_summary(found, console)
    console.print(f"\nreport: {page}", soft_wrap=True)
    if open_:
        webbrowser.open(page.resolve().as_uri())


def _beside(folders: list[Path]) -> Path:
    """The folder of one run, or the one that all of them lie in."""
    if len(folders) == 1:
        return folders[0]
    common = Path(os.path.commonpath([folder.resolve().parent for folder in folders]))
    return Path(os.path.relpath(common))
