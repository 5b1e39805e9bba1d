"""`prefopt bench`."""

from __future__ import annotations

import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from prefopt import docstrings
from prefopt.bench import report as bench_report
from prefopt.bench.cell import Record
from prefopt.bench.record import read_records
from prefopt.bench.runner import remaining, run_suite
from prefopt.bench.suite import built_in_suites, load_suite
from prefopt.cli.options import PluginFiles
from prefopt.errors import ConfigError
from prefopt.registry import load_registry
from prefopt.task import Knob
from prefopt.worlds import World

bench = typer.Typer(help="Losses and their contenders on tasks whose truth is known.", rich_markup_mode=None)

Output = Annotated[
    Path | None, typer.Option("--output", metavar="FOLDER", help="Of the results; runs/bench/SUITE unless given.")
]


@bench.command("list")
def list_(plugin: PluginFiles = None) -> None:
    """List tasks with their knobs, methods and suites."""
    registry = load_registry(plugin or ())
    console = Console(markup=False, highlight=False)
    tasks = {}
    for name, task in sorted(registry.tasks.items()):
        own = {key: knob for key, knob in task.knobs.items() if World.knobs.get(key) != knob}
        tasks[name] = [docstrings.summary(task), *_knobs(own)]
    tasks["every exact task"] = ["The size of its worlds.", *_knobs(World.knobs)]
    methods = {name: [docstrings.summary(method)] for name, method in sorted(registry.methods.items())}
    methods["every loss"] = [f"Trains on the rows: {len(registry.losses)} of them, `prefopt losses`."]
    suites = {name: [load_suite(name).description] for name in built_in_suites()}
    for title, entries in {"task": tasks, "method": methods, "suite": suites}.items():
        table = Table(title, "", box=None, pad_edge=False, header_style="bold")
        for name, lines in entries.items():
            table.add_row(name, "\n".join(lines))
        console.print(table)
        console.print()


def _knobs(knobs: Mapping[str, Knob]) -> list[str]:
    return [
        f"- {key} = {'none' if knob.default is None else knob.default}: {knob.description}"
        for key, knob in knobs.items()
    ]


@bench.command()
def run(
    suite: Annotated[str, typer.Argument(help="A built-in suite, or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace the suite's.")
    ] = None,
    output: Output = None,
    processes: Annotated[int, typer.Option("--processes", help="How many at a time; -1: one a core.")] = -1,
    retry: Annotated[bool, typer.Option("--retry", help="Compute cells again that failed.")] = False,
    plugin: PluginFiles = None,
) -> None:
    """Run what is not on record yet; interrupt it whenever you like."""
    if processes < 1 and processes != -1:
        raise ConfigError(f"--processes is {processes}; it must be at least 1, or -1 for one a core")
    chosen = load_suite(suite, overrides or ())
    registry = load_registry(plugin or ())
    folder = output or Path("runs", "bench", chosen.name)
    cells, num_cells = remaining(chosen, registry, folder, retry=retry)
    console = Console(markup=False, highlight=False)
    console.print(f"suite {chosen.name}: {num_cells} cells, {num_cells - len(cells)} of them on record in {folder}")
    if cells:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        with Progress(TextColumn("{task.description:24.24}"), *columns, console=console) as progress:
            shown = progress.add_task(chosen.name, total=len(cells))

            def after_cell(record: Record) -> None:
                if record["status"] == "failed":
                    where = f"{record['task']} {record['method']} {record['split']}"
                    progress.console.print(f"failed: {where}: {record['error']}", soft_wrap=True)
                progress.update(shown, advance=1, description=f"{record['task']} {record['method']}")

            run_suite(chosen, cells, folder, num_processes=processes, plugins=plugin or (), after_cell=after_cell)
    _report(folder, console)


@bench.command()
def report(
    suite: Annotated[str, typer.Argument(help="A suite that has been run, or a folder of results.")] = "quick",
    open_: Annotated[bool, typer.Option("--open", help="Show the page in a browser.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown instead.")] = False,
) -> None:
    """Write the page of a suite's results, and sum them up."""
    folder = Path(suite) if Path(suite).is_dir() else Path("runs", "bench", suite)
    if as_markdown:
        print(bench_report.markdown(read_records(folder)))
        return
    page = _report(folder, Console(markup=False, highlight=False))
    if open_:
        webbrowser.open(page.resolve().as_uri())


def _report(folder: Path, console: Console) -> Path:
    records = read_records(folder)
    page = folder / "report.html"
    suite = folder / "suite.yaml"
    bench_report.write(records, page, load_suite(str(suite)).landmarks if suite.is_file() else ())
    bench_report.print_summary(records, console)
    console.print(f"\nreport: {page}", soft_wrap=True)
    return page
