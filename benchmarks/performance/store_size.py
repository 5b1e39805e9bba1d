"""How opening a store and reading from it grow with its size: synthetic pairs, two completions of 100 tokens each.

    python benchmarks/performance/store_size.py

Every opening is a process of its own. `cold`: the kernel was asked to forget the files first. Memory is what an open
store adds to the process, mapped pages of the index included. A read is a look-up of 64 completions with all their
checks, the median of 200.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from measures import resident_bytes
from rich import box
from rich.console import Console
from rich.table import Table

from prefopt.reference.shard import Entry, write_shard
from prefopt.reference.store import Store

IDENTITY, TOKENS, BATCH = "ab" * 32, 100, 64


def keys(start, stop):
    """The same 16 bytes for a number in every process."""
    return [random.Random(number).randbytes(16) for number in range(start, stop)]


def build(place, num_completions, num_shards):
    folder = Path(place) / IDENTITY
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    bounds = np.linspace(0, num_completions, num_shards + 1).astype(int).tolist()
    for start, stop in pairwise(bounds):
        values = -draw.random((stop - start, TOKENS), dtype=np.float32)
        write_shard(folder, IDENTITY, [Entry(*own) for own in zip(keys(start, stop), values, strict=True)], {})


def forget(place):
    for path in (Path(place) / IDENTITY).iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def opening(place, num_completions):
    """In a process of its own: open, then read batches at random."""
    before = resident_bytes()
    started = time.perf_counter()
    store = Store(place, IDENTITY)
    seconds = time.perf_counter() - started
    held = resident_bytes() - before
    draw, times = random.Random(1), []
    for _ in range(200):
        batch = [random.Random(draw.randrange(num_completions)).randbytes(16) for _ in range(BATCH)]
        started = time.perf_counter()
        store.read(batch)
        times.append(time.perf_counter() - started)
    absent = [bytes([255]) * 8 + random.Random(-1 - number).randbytes(8) for number in range(BATCH)]
    started = time.perf_counter()
    assert store.find(absent).missing.all()
    print(
        json.dumps(
            {
                "seconds": seconds,
                "held_bytes": held,
                "read_seconds": statistics.median(times),
                "miss_seconds": time.perf_counter() - started,
            }
        )
    )


def opened(place, num_completions):
    command = [sys.executable, "-W", "ignore", __file__, "--open", place, str(num_completions)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="*", type=int, default=[20_000, 200_000, 2_000_000], help="pairs")
    parser.add_argument("--per-shard", type=int, default=80_000, help="completions: about 32 MiB")
    parser.add_argument("--many-shards", type=int, default=2_000, help="the largest store once more, in so many shards")
    parser.add_argument("--open", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.open:
        opening(args.open[0], int(args.open[1]))
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("rows", "shards", "on disk", "open cold", "warm", "memory", "read 64", "64 misses"):
        table.add_column(column, justify="right", no_wrap=True)
    sizes = [(rows, -(-2 * rows // args.per_shard)) for rows in args.rows]
    for rows, shards in [*sizes, (args.rows[-1], args.many_shards)]:
        with tempfile.TemporaryDirectory() as place:
            build(place, 2 * rows, shards)
            disk = sum(path.stat().st_size for path in Path(place).rglob("*.arrow"))
            forget(place)
            cold, warm = opened(place, 2 * rows), opened(place, 2 * rows)
        table.add_row(
            f"{rows:,}",
            f"{shards:,}",
            f"{disk / 1e9:.2f} GB",
            f"{cold['seconds']:.2f} s",
            f"{warm['seconds']:.2f} s",
            f"{warm['held_bytes'] / 1e6:.0f} MB",
            f"{warm['read_seconds'] * 1e3:.1f} ms",
            f"{warm['miss_seconds'] * 1e3:.1f} ms",
        )
    Console().print(table)


main()
