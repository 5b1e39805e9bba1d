"""What is shown on a terminal, and what other libraries would like to show."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import datasets
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from prefopt.watcher import Watcher

_LINE_SECONDS = 60.0  # between two lines of progress where there is no terminal to draw on


def quieten() -> None:
    """Keep the progress bars and advice of other libraries away from our output."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """While open, SIGTERM stops as Ctrl-C does: what schedulers send first, so that work can be kept."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class TerminalWatcher(Watcher):
    """Facts as lines on stderr; a progress bar where stderr is a terminal."""

    def __init__(self) -> None:
        """Draw nothing yet."""
        self._console = Console(stderr=True, highlight=False)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._scoring = _Rate(None)

    def say(self, line: str) -> None:
        """A fact worth a line."""
        self._console.print(line, markup=False, soft_wrap=True)

    def begin(self, what: str, total: int | None) -> None:
        """Draw the bar."""
        self._scoring = _Rate(total)
        if not self._console.is_terminal:
            return
        self._progress = Progress(
            TextColumn(what),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            expand=True,
        )
        self._task = self._progress.add_task(what, total=total, numbers="")
        self._progress.start()

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Move the bar, with the numbers of the step."""
        self._move(1, _numbers(metrics))

    def scored(self, num_rows: int, num_new: int) -> None:
        """Move the bar, with the rate; without a terminal, say so every minute."""
        self._scoring.count(num_rows, num_new)
        if self._progress is None and self._scoring.due():
            self.say(f"score   {self._scoring.in_words()}")
        self._move(num_rows, self._scoring.rate())

    def evaluated(self, when: str, found: Mapping[str, Any]) -> None:
        """One line of numbers on held-out rows."""
        self.say(f"{when:7} {in_words(found)}")

    def end(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _move(self, advance: int, numbers: str) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=advance, numbers=numbers)


class _Rate:
    """How scoring goes."""

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._rows = self._new = 0
        self._started = self._said = time.monotonic()

    def count(self, num_rows: int, num_new: int) -> None:
        self._rows += num_rows
        self._new += num_new

    def due(self) -> bool:
        now = time.monotonic()
        if now - self._said < _LINE_SECONDS:
            return False
        self._said = now
        return True

    def rate(self) -> str:
        return f"{self._new / max(time.monotonic() - self._started, 1e-9):,.1f} rows/s"

    def in_words(self) -> str:
        whole = "" if self._total is None else f" of {self._total:,}"
        left = ""
        if self._total is not None and self._rows:
            seconds = (self._total - self._rows) * (time.monotonic() - self._started) / self._rows
            left = f", {seconds / 60:.0f} min left"
        return f"{self._rows:,}{whole} rows, {self.rate()}{left}"


def in_words(found: Mapping[str, Any]) -> str:
    """What was measured on held-out rows in one line of under 80 columns."""
    loss = f"loss {found['loss']:.4f}"
    if "reward_accuracy_interval" not in found:
        return loss
    low, high = found["reward_accuracy_interval"]
    accuracy, margin = found["reward_accuracy"], found["reward_margin"]
    return f"reward accuracy {accuracy:.3f} [{low:.3f}, {high:.3f}]  margin {margin:+.4f}  {loss}"


def _numbers(metrics: Mapping[str, Any]) -> str:
    numbers = [f"loss {metrics['loss']:.3f}"]
    if "reward_accuracy" in metrics:
        numbers += [f"acc {metrics['reward_accuracy']:.2f}", f"margin {metrics['reward_margin']:+.2f}"]
    numbers.append(f"{metrics['num_tokens'] / max(metrics['step_seconds'], 1e-9):.0f} tok/s")
    return " ".join(numbers)
