"""Raw rows tokenised in several processes, their outcomes in the order of the source."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

from prefopt.data.reading import Outcome, RowReader
from prefopt.data.sources import RawRow
from prefopt.errors import DataError

_CHUNK_ROWS = 256
_CHUNKS_AHEAD = 3  # of each process: enough that none waits, few enough that memory stays small

_reader: RowReader | None = None  # of a tokenising process; the tokenizer travels there once


def read_with(reader: RowReader, rows: Iterable[tuple[int, RawRow]], num_proc: int) -> Iterator[Outcome]:
    """The outcome of each row, in order, the same for any number of processes.

    Args:
        reader: What is done with a row.
        rows: Numbered raw rows, read a few chunks ahead.
        num_proc: Processes besides this one; 1: this one does it.

    Raises:
        DataError: A process ended before its work did.
    """
    if num_proc == 1:
        yield from map(reader, rows)
        return
    rows = iter(rows)
    # `spawn`: a fork of a process whose libraries have threads may hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_proc, context, initializer=_begin, initargs=(reader,)) as pool:
        waiting: deque[Future[list[Outcome]]] = deque()
        try:
            while True:
                while len(waiting) < _CHUNKS_AHEAD * num_proc and (chunk := list(islice(rows, _CHUNK_ROWS))):
                    waiting.append(pool.submit(_read, chunk))
                if not waiting:
                    return
                yield from waiting.popleft().result()
        except BrokenProcessPool as error:
            raise DataError(
                f"data.num_proc = {num_proc}: a tokenising process ended before its work did, for want of memory or "
                "because the program that calls prefopt lacks `if __name__ == '__main__':`; data.num_proc = 1 needs "
                "neither"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _begin(reader: RowReader) -> None:
    global _reader
    _reader = reader


def _read(chunk: list[tuple[int, RawRow]]) -> list[Outcome]:
    assert _reader is not None
    return [_reader(numbered) for numbered in chunk]
