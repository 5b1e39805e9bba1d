"""Where the numbers of every step go besides metrics.jsonl: accelerate's trackers."""

from __future__ import annotations

import importlib.util
import json
import math
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from prefopt.config import RunConfig, TrackingConfig, as_values
from prefopt.errors import ConfigError
from prefopt.training.output import TENSORBOARD, TRACKER_IDS, read_json, write_json
from prefopt.watcher import Watcher


class Trackers:
    """The config's trackers, on the first process only; with none of them it does nothing.

    A run never ends for a tracker's sake. One that fails is said once and left out from then on: metrics.jsonl holds
    every number anyway.

    Attributes:
        failed: name of a tracker -> why it was left out.
    """

    def __init__(self, config: RunConfig, resumed_from_step: int | None, watcher: Watcher | None = None) -> None:
        """See that the packages are there; nothing is started yet.

        Args:
            config: of the run.
            resumed_from_step: the last step before, where a run goes on; None: a new run.
            watcher: is told of a tracker that fails.

        Raises:
            ConfigError: a tracker's package is not installed.
        """
        self.failed: dict[str, str] = {}
        self._config = config
        self._resumed_from_step = resumed_from_step
        self._watcher = watcher or Watcher()
        self._open: dict[str, GeneralTracker] = {}
        names = config.tracking.trackers if config.tracking else ()
        for name in names:
            if importlib.util.find_spec(name) is None:
                raise ConfigError(
                    f"tracking.trackers names {name!r}, whose package is not installed; "
                    f"`pip install 'prefopt[{name}]'` brings it"
                )

    def __enter__(self) -> Trackers:
        tracking = self._config.tracking
        if tracking is not None and PartialState().is_main_process:
            for name in dict.fromkeys(tracking.trackers):
                self._guarded(name, partial(self._start, name, tracking))
        return self

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Send the numbers of a step.

        Args:
            metrics: a line of metrics.jsonl; of what is nested the names are joined, as in `evaluation/loss`.
            step: counted from 1.
        """
        values = numbers(metrics)
        for name, tracker in list(self._open.items()):
            self._guarded(name, partial(tracker.log, values, step=step))

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for name, tracker in list(self._open.items()):
            self._guarded(name, tracker.finish)

    def _guarded(self, name: str, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:  # whatever a service and its client come up with
            self._open.pop(name, None)
            text = " ".join(str(error).split()) or type(error).__name__
            self.failed[name] = text
            self._watcher.say(f"tracker {name} failed and is left out from here on, metrics.jsonl is not: {text}")

    def _start(self, name: str, tracking: TrackingConfig) -> None:
        output = Path(self._config.output_dir)
        resumed = self._resumed_from_step is not None
        known = _read_ids(output) if resumed else {}
        title = tracking.name or output.resolve().name
        kind = LOGGER_TYPE_TO_CLASS[name]
        if name == TENSORBOARD:
            # Steps after the checkpoint are taken again: their first values would stand beside the second.
            purge = {"purge_step": self._resumed_from_step + 1} if self._resumed_from_step is not None else {}
            tracker = kind(title, output / TENSORBOARD, **purge)
        elif name == "mlflow":
            tracker = kind(tracking.project, run_name=title, run_id=known.get(name))
        elif name == "trackio":
            tracker = kind(tracking.project, name=title, resume="allow" if resumed else "never")
        else:
            known.setdefault(name, uuid.uuid4().hex)
            tracker = kind(tracking.project, name=title, id=known[name], resume="allow", dir=str(output))
        tracker.start()
        if name == "mlflow":
            known[name] = tracker.tracker.info.run_id
        if name in known:
            write_json(output / TRACKER_IDS, _read_ids(output) | {name: known[name]})
        self._open[name] = tracker
        if not resumed:
            tracker.store_init_configuration(flat(as_values(self._config)))


def numbers(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers among `metrics`, nested ones under joined names; the step itself is left out.

    >>> numbers({"step": 3, "loss": 0.5, "evaluation": {"loss": 0.25, "reward_accuracy_interval": [0.1, 0.9]}})
    {'loss': 0.5, 'evaluation/loss': 0.25}
    """
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[prefix + name] = value
    if not prefix:
        found.pop("step", None)
    return found


def flat(values: Any, prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested settings under dotted names, as trackers keep them.

    >>> flat({"loss": [{"name": "dpo", "beta": 0.1}], "model": {"revision": None}})
    {'loss.0.name': 'dpo', 'loss.0.beta': 0.1, 'model.revision': 'null'}
    """
    if isinstance(values, Mapping):
        items = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, list | tuple):
        items = [(str(index), value) for index, value in enumerate(values)]
    else:
        return {prefix: values if isinstance(values, bool | int | float | str) else json.dumps(values)}
    found: dict[str, bool | int | float | str] = {}
    for key, value in items:
        found |= flat(value, f"{prefix}.{key}" if prefix else key)
    return found


def _read_ids(output: Path) -> dict[str, str]:
    path = output / TRACKER_IDS
    return read_json(path) if path.exists() else {}
