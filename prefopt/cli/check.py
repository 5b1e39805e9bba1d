"""`prefopt check`."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from prefopt.cli.options import PluginFiles
from prefopt.errors import ConfigError
from prefopt.registry import load_registry

if TYPE_CHECKING:
    from prefopt.testing import Result

_OUTCOMES = ("passed", "failed", "expected failure", "not applicable")


def check(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="The losses to check.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Check every loss there is.")] = False,
    only: Annotated[
        list[str] | None, typer.Option("--check", metavar="CHECK", help="Only this check; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, one entry for each loss and check.")] = False,
    plugin: PluginFiles = None,
) -> None:
    """Hold losses to what prefopt promises of every loss; exit with 1 if one breaks a promise."""
    if every == bool(names):
        raise ConfigError("name the losses to check, or give --all")
    registry = load_registry(plugin or ())
    chosen = sorted(registry.losses) if every else [registry.loss_class(name).name for name in names or ()]
    found = _checked(chosen, plugin or (), only)
    if as_json:
        results = [result for _, of_loss in found for result in of_loss]
        print(json.dumps([dataclasses.asdict(result) for result in results], indent=2))
    else:
        results = _print_table(found) if len(chosen) > 1 else _print_checks(next(iter(found))[1])
        for broken in registry.broken if every else ():
            print(f"failed to load: {broken.name}: {broken.error}")
    if any(result.outcome == "failed" for result in results):
        raise typer.Exit(1)


def _checked(
    names: Sequence[str], files: Sequence[str], only: Sequence[str] | None
) -> Iterator[tuple[str, list[Result]]]:
    """The results of each loss, in order, as they come in."""
    if len(names) == 1:
        yield names[0], _check_one(names[0], files, only)
        return
    # Not forked: torch's threads do not survive it.
    context = multiprocessing.get_context("spawn")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ProcessPoolExecutor(min(cores, len(names)), context, torch.set_num_threads, (1,)) as pool:
        for name, future in [(name, pool.submit(_check_one, name, files, only)) for name in names]:
            yield name, future.result()


def _check_one(name: str, files: Sequence[str], only: Sequence[str] | None) -> list[Result]:
    try:
        from prefopt.testing import check_loss
    except ImportError as error:
        raise ConfigError(str(error)) from None
    registry = load_registry(files)
    return check_loss(registry.loss_class(name), registry, only)


def _print_table(found: Iterator[tuple[str, list[Result]]]) -> list[Result]:
    """A line for each loss once it is done, then what failed."""
    print(f"{'loss':20} {'passed':>6} {'failed':>6} {'expected to fail':>16} {'not applicable':>14} {'seconds':>7}")
    results: list[Result] = []
    for name, of_loss in found:
        counts = [sum(result.outcome == outcome for result in of_loss) for outcome in _OUTCOMES]
        seconds = sum(result.seconds for result in of_loss)
        print(f"{name:20} {counts[0]:6} {counts[1]:6} {counts[2]:16} {counts[3]:14} {seconds:7.1f}", flush=True)
        results += of_loss
    for result in results:
        if result.outcome == "failed":
            _print_failure(result)
    return results


def _print_checks(results: list[Result]) -> list[Result]:
    """A line for each check, then what failed."""
    for result in results:
        why = "" if result.outcome == "failed" else result.message
        line = f"{result.check:20} {result.outcome:16} {why}"
        print(textwrap.fill(line.rstrip(), 80, subsequent_indent=" " * 38))
    for result in results:
        if result.outcome == "failed":
            _print_failure(result)
    return results


def _print_failure(result: Result) -> None:
    print(f"\n{textwrap.fill(f'{result.loss} fails {result.check}: {result.message}', 80)}")
    if result.snippet:
        print(f"\n{textwrap.indent(result.snippet, '    ')}")
