"""Throw configs and rows at the command line, and count what came of them.

    python benchmarks/robustness/fuzz.py [--configs 200] [--rows 2000] [--processes 20] [--seed 0]

The cases are those of tests/fuzz, drawn by hypothesis from a seed. Every failure is shown; none ends the count.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hypothesis import HealthCheck, Phase, given, seed, settings, strategies

from tests.fuzz import configs, rows
from tests.fuzz.commands import run, run_process
from tests.fuzz.grounds import lay_out


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--configs", type=int, default=200)
    arguments.add_argument("--rows", type=int, default=2000)
    arguments.add_argument("--processes", type=int, default=20)
    arguments.add_argument("--seed", type=int, default=0)
    given_ = arguments.parse_args()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        ground = Path(folder) / "ground"
        ground.mkdir()
        lay_out(ground)
        fuzz_configs("configs", given_.configs, given_.seed, ground, run, failures)
        fuzz_rows(given_.rows, given_.seed, ground, failures)
        fuzz_configs("processes", given_.processes, given_.seed + 1, ground, run_process, failures)
    print(f"{len(failures)} failures", *failures, sep="\n")
    sys.exit(bool(failures))


def fuzz_configs(what: str, count: int, start: int, ground: Path, how: Callable[..., Any], failures: list[str]) -> None:
    """Cases, in this process or in ones of their own."""
    codes: Counter[str] = Counter()
    started = time.monotonic()

    def play(case: configs.Case) -> None:
        try:
            outcome = configs.play(case, ground, how)
            codes[f"{case.command} exit {outcome.code}"] += 1
        except BaseException as error:
            tell(failures, case, error)

    each(configs.cases(), count, start, play)
    listed = ", ".join(f"{name}: {number}" for name, number in sorted(codes.items()))
    print(f"{what:9} {count:5}  {time.monotonic() - started:6.0f} s  {listed}", flush=True)


def fuzz_rows(count: int, start: int, ground: Path, failures: list[str]) -> None:
    """Files of rows until there are as many rows as asked, each file trained on twice."""
    verdicts: Counter[str] = Counter()
    num_files = 0
    started = time.monotonic()

    def play(file: rows.File) -> None:
        nonlocal num_files, verdicts
        num_files += 1
        try:
            verdicts += rows.play(file, ground / "model", run)
        except BaseException as error:
            tell(failures, file, error)

    while sum(verdicts.values()) < count and not (failures and num_files > count):
        start += 1
        each(rows.files(num_lines=(18, 26)), 10, start, play)
    listed = ", ".join(f"{name}: {number}" for name, number in sorted(verdicts.items()))
    print(f"{'rows':9} {sum(verdicts.values()):5}  {time.monotonic() - started:6.0f} s  {listed}, in {num_files} files")


def each(cases: strategies.SearchStrategy[Any], count: int, start: int, play: Callable[[Any], None]) -> None:
    """Play so many cases drawn from a seed."""
    if not count:
        return
    quiet = settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    seed(start)(quiet(given(cases)(play)))()


def tell(failures: list[str], case: object, error: BaseException) -> None:
    if isinstance(error, KeyboardInterrupt):
        raise error
    failures.append(f"{type(error).__name__}: {str(error)[:1000]}\n    {str(case)[:2000]}")


if __name__ == "__main__":
    main()
