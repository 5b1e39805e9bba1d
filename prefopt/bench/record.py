"""The record of finished cells: one line of JSON each, only ever appended to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from prefopt.bench.cell import Record
from prefopt.errors import DataError

CELLS = "cells.jsonl"


def read_records(folder: Path) -> list[Record]:
    """The records in a folder of results; of a cell that was computed again after a failure, the last.

    A last line that a killed run left unfinished is no record.

    Raises:
        DataError: there are none, or a line is damaged.
    """
    path = folder / CELLS
    if not path.is_file():
        raise DataError(f"{str(folder)!r} holds no {CELLS}; `prefopt bench run SUITE` writes one")
    found: dict[str, Record] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            record = json.loads(line)
            found[record["cell"]] = record
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{path}, line {number}: not the record of a cell; restore it or remove the line") from None
    return list(found.values())


class Appender:
    """Writes records to disk, each whole before the next."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, record: Record) -> None:
        """Append a record; it is on disk when this returns."""
        self._file.write(json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def appending(folder: Path) -> Iterator[Appender]:
    """Open the record for appending, by one process at a time; an unfinished last line is cut off.

    Raises:
        DataError: another process writes to it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{CELLS}.lock", timeout=0), (folder / CELLS).open("ab+") as file:
            file.seek(0)
            whole = file.read().rpartition(b"\n")
            file.truncate(len(whole[0]) + len(whole[1]))
            yield Appender(file)
    except Timeout:
        raise DataError(f"another run writes to {str(folder)!r}; wait for it, or give another --output") from None
    except OSError as error:
        raise DataError(f"cannot write to {str(folder)!r}: {error.strerror or error}") from None
