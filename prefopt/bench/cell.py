"""One cell of the benchmark: a method on a task at one setting of its knobs, all trials and seeds of a split."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np

from prefopt.bench.exact import Measurement, measure
from prefopt.method import Budget, Trial

Record = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """What is to be computed, whole: two equal cells give equal numbers.

    Attributes:
        suite: in which it was asked for.
        task: its name.
        knobs: all of the task's knobs.
        method: its name.
        split: `validation` or `held_out`.
        trials: [T].
        seeds: [S].
        budget: what the method may spend.
    """

    suite: str
    task: str
    knobs: Mapping[str, Any]
    method: str
    split: str
    trials: tuple[Trial, ...]
    seeds: tuple[int, ...]
    budget: Budget

    @property
    def id(self) -> str:
        """16 hex digits of a digest of all but the suite's name."""
        defining = {name: value for name, value in asdict(self).items() if name != "suite"}
        return hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.task} {self.method} {self.split}"


def compute(cell: Cell, task: Any, method: Any) -> Record:
    """The cell's record; whatever goes wrong in it is a record too, of a cell that failed.

    Args:
        cell: what to compute.
        task: a `prefopt.Task`; one whose policies cannot be enumerated measures itself by a method `measure`.
        method: a `prefopt.Method`.
    """
    began = time.monotonic()
    run = getattr(task, "measure", None) or _exactly(task)
    outcome: Record
    try:
        found = run(method, cell.trials, cell.seeds, cell.knobs, cell.budget)
        outcome = {"status": "done", "error": None, **_numbers(found)}
    except Exception as error:  # a plugin may raise anything, and must not stop the other cells
        outcome = {"status": "failed", "error": _reason(error), "metrics": {}}
    return {
        "cell": cell.id,
        "suite": cell.suite,
        "task": cell.task,
        "knobs": dict(cell.knobs),
        "method": cell.method,
        "split": cell.split,
        "seeds": list(cell.seeds),
        "trials": [dict(trial) for trial in cell.trials],
        "steps": list(cell.budget.checkpoints),
        "batch_size": cell.budget.batch_size,
        "knows_reward": method.knows_reward,
        **outcome,
        "seconds": round(time.monotonic() - began, 3),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _exactly(task: Any) -> Any:
    return lambda method, trials, seeds, knobs, budget: measure(task, knobs, method, trials, seeds, budget)


def _numbers(found: Measurement) -> Record:
    known = found.optimum_kl is not None and found.optimum_reward is not None
    return {
        "metrics": {name: _plain(values) for name, values in found.metrics.items()},
        "reference_reward": _plain(found.reference_reward),
        "max_kl": found.max_kl,
        "optimum": {"kl": _plain(found.optimum_kl), "reward": _plain(found.optimum_reward)} if known else None,
    }


def _plain(values: Any) -> Any:
    """Nested lists of numbers with six digits; null where a number is not finite."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return float(f"{values:.6g}") if math.isfinite(values) else None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if type(error).__module__.startswith("prefopt.") else f"{type(error).__name__}: {text}"
