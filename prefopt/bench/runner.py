"""Runs a suite: every cell that is not on record yet, in parallel, each recorded as soon as it is finished."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
from joblib import Parallel, delayed

from prefopt.bench.cell import Cell, Record, compute
from prefopt.bench.record import CELLS, appending, read_records
from prefopt.bench.suite import Suite, method_of, to_yaml
from prefopt.errors import PrefoptError
from prefopt.registry import Registry, load_registry
from prefopt.run import versions


def remaining(suite: Suite, registry: Registry, folder: Path, *, retry: bool = False) -> tuple[list[Cell], int]:
    """The cells to compute, and how many the suite has.

    Args:
        suite: what to run.
        registry: where its tasks and methods come from.
        folder: of the results.
        retry: compute cells that failed again.
    """
    cells = suite.cells(registry)
    records = read_records(folder) if (folder / CELLS).is_file() else []
    finished = {record["cell"] for record in records if not (retry and record["status"] == "failed")}
    return [cell for cell in cells if cell.id not in finished], len(cells)


def run_suite(
    suite: Suite,
    cells: Iterable[Cell],
    folder: Path,
    *,
    num_processes: int = -1,
    plugins: Sequence[str] = (),
    after_cell: Callable[[Record], None] = lambda record: None,
) -> None:
    """Compute the cells and append them to the record.

    Processes come from joblib, so within `joblib.parallel_config(backend="dask")` or the like they are a cluster's.

    Args:
        suite: what they belong to; it is written beside them.
        cells: what to compute.
        folder: of the results.
        num_processes: at a time; -1: one a core.
        plugins: plugin files.
        after_cell: called with every record once it is on disk.

    Raises:
        DataError: another run writes to the folder, or it cannot be written.
        PrefoptError: one of the processes was killed.
    """
    stamp = {"versions": versions(), "commit": commit()}
    with appending(folder) as record:
        (folder / "suite.yaml").write_text(to_yaml(suite), encoding="utf-8")
        parallel = Parallel(n_jobs=num_processes, return_as="generator_unordered", pre_dispatch="2*n_jobs")
        try:
            for found in parallel(delayed(_compute)(cell, tuple(plugins)) for cell in cells):
                record.write(found | stamp)
                after_cell(found)
        except BrokenProcessPool:
            raise PrefoptError(
                "a process of the run was killed, perhaps for want of memory; what is finished is on record, so run "
                "again with fewer --processes"
            ) from None


def commit() -> str | None:
    """The commit of the checkout that this code is imported from, `-dirty` where it was changed; None outside one."""
    # An installed copy may lie in somebody else's checkout, which does not track it.
    if _git("ls-files", Path(__file__).name) is None:
        return None
    return _git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def _git(*arguments: str) -> str | None:
    """What git says of the folder of this file; None where it says nothing, or is not there."""
    try:
        told = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return told.stdout.strip() or None


def _compute(cell: Cell, plugins: tuple[str, ...]) -> Record:
    torch.set_num_threads(1)  # one process a core, and the same sums whatever the machine
    registry = _registry(plugins)
    return compute(cell, registry.task(cell.task), method_of(cell.method, registry))


@functools.lru_cache(maxsize=1)
def _registry(plugins: tuple[str, ...]) -> Registry:
    return load_registry(plugins)
