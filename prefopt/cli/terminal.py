"""What is shown on a terminal, and what other libraries would like to show."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import datasets
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from prefopt.evaluation.rewards import RewardReport
from prefopt.run import Watcher


def quieten() -> None:
    """Keep the progress bars and advice of other libraries away from our output."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()


class TerminalWatcher(Watcher):
    """Facts as lines on stderr; a progress bar where stderr is a terminal."""

    def __init__(self) -> None:
        """Draw nothing yet."""
        self._console = Console(stderr=True, highlight=False)
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def say(self, line: str) -> None:
        """A fact worth a line."""
        self._console.print(line, markup=False, soft_wrap=True)

    def begin(self, num_steps: int) -> None:
        """Draw the bar."""
        if not self._console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("train"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            expand=True,
        )
        self._task = self._progress.add_task("train", total=num_steps, numbers="")
        self._progress.start()

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Move the bar, with the numbers of the step."""
        if self._progress is None or self._task is None:
            return
        self._progress.update(self._task, advance=1, numbers=_numbers(metrics))

    def evaluated(self, when: str, report: RewardReport) -> None:
        """One line of numbers on held-out rows."""
        self.say(f"{when:7} {in_words(report)}")

    def end(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def in_words(report: RewardReport) -> str:
    """A report on held-out rows in one line of under 80 columns."""
    loss = f"loss {report.loss:.4f}"
    if report.accuracy is None or report.interval is None:
        return loss
    low, high = report.interval
    return f"reward accuracy {report.accuracy:.3f} [{low:.3f}, {high:.3f}]  margin {report.margin:+.4f}  {loss}"


def _numbers(metrics: Mapping[str, Any]) -> str:
    numbers = [f"loss {metrics['loss']:.3f}"]
    if "reward_accuracy" in metrics:
        numbers += [f"acc {metrics['reward_accuracy']:.2f}", f"margin {metrics['reward_margin']:+.2f}"]
    numbers.append(f"{metrics['num_tokens'] / max(metrics['step_seconds'], 1e-9):.0f} tok/s")
    return " ".join(numbers)
