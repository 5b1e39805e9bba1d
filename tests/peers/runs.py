"""A short training run through `prefopt.run.run`, and what it left behind."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

import prefopt
from prefopt.config import RunConfig, parse_config
from prefopt.objective import build_loss
from prefopt.run import run
from prefopt.watcher import Watcher

REGISTRY = prefopt.load_registry()
CLOCK = re.compile("second|memory")
SHORT = {
    "data": {"train": "in memory", "max_length": 64},
    "loss": "dpo",
    "training": {
        "batch_size": 4,
        "learning_rate": 1e-2,
        "max_steps": 2,
        "optimizer": "sgd",
        "tokens_per_microbatch": 256,
    },
}


class Listener(Watcher):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@dataclass(frozen=True)
class Trained:
    folder: Path
    record: dict[str, Any]
    lines: list[str]

    @classmethod
    def at(cls, folder: Path) -> Trained:
        """A run that another process has made."""
        return cls(folder, json.loads((folder / "run.json").read_text()), [])

    @property
    def steps(self) -> list[dict[str, Any]]:
        """metrics.jsonl, without what follows from the machine: time and memory."""
        steps = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        return [{name: value for name, value in step.items() if not CLOCK.search(name)} for step in steps]

    @property
    def losses(self) -> list[float]:
        return [step["loss"] for step in self.steps]

    @property
    def weights(self) -> dict[str, Tensor]:
        (file,) = self.folder.glob("*model.safetensors")
        return load_file(file)

    @property
    def scored(self) -> tuple[int, int]:
        """Rows whose reference log-probs were scored, and rows of which they were there."""
        return self.record["reference"]["rows_scored"], self.record["reference"]["rows_reused"]


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values with changes, section by section."""
    return {
        key: {**values[key], **changes[key]}
        if isinstance(values.get(key), dict) and isinstance(changes.get(key), dict)
        else changes.get(key, values.get(key))
        for key in {**values, **changes}
    }


def settings(*changes: Mapping[str, Any]) -> RunConfig:
    """The config of a short run with changes."""
    values: dict[str, Any] = dict(SHORT)
    for change in changes:
        values = merged(values, change)
    return parse_config(values)


def train_once(source: Any, *changes: Mapping[str, Any]) -> Trained:
    """Train on rows in memory, or on a file."""
    if isinstance(source, str | Path):
        changes, source = (*changes, {"data": {"train": str(source)}}), None
    config, listener = settings(*changes), Listener()
    record = run(config, build_loss(config, REGISTRY), train=source, watcher=listener)
    return Trained(Path(config.output_dir), record, listener.lines)
