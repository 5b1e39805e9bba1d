"""What a run has left in its output folder so far, whether it is finished, still running or was killed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefopt.errors import ConfigError, DataError, nearest
from prefopt.training.output import CONFIG, METRICS, RUN
from prefopt.yaml_file import read_yaml

EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class Run:
    """One output folder.

    Attributes:
        label: what tells it from the others: the end of its path.
        folder: where it lies.
        steps: the lines of metrics.jsonl by step; of a step that was taken twice, the later one.
        config: the resolved config; empty where there is none.
        record: run.json; None where the run has not ended well, or not yet.
        evaluation: evaluation.json; None where there is none.
        remarks: what is missing, and what the run itself warned of.
    """

    label: str
    folder: Path
    steps: tuple[Mapping[str, Any], ...]
    config: Mapping[str, Any]
    record: Mapping[str, Any] | None
    evaluation: Mapping[str, Any] | None
    remarks: tuple[str, ...]

    @property
    def loss(self) -> str:
        """The name of its loss, as in `dpo + 0.2 sft`; empty where no file says."""
        if self.record is not None and isinstance(self.record.get("loss"), str):
            return str(self.record["loss"])
        loss = self.config.get("loss")
        parts = loss if isinstance(loss, list) else [loss] if isinstance(loss, Mapping) else []
        names = [str(part.get("name")) for part in parts]
        weights = [part.get("weight", 1.0) for part in parts]
        return " + ".join(
            name if weight == 1 else f"{weight:g} {name}" for name, weight in zip(names, weights, strict=True)
        )

    @property
    def num_planned(self) -> int | None:
        """How many steps it takes in all, where a file says."""
        planned = (self.record or {}).get("num_steps") or (self.config.get("training") or {}).get("max_steps")
        return planned if isinstance(planned, int) else None

    @property
    def held_out(self) -> list[tuple[int, Mapping[str, Any]]]:
        """What was found on held-out rows: (step, values); before training is step 0."""
        known = (self.record or {}).get("evaluation") or {}
        found = [(step["step"], step["evaluation"]) for step in self.steps if step.get("evaluation")]
        before, after = known.get("before"), known.get("after")
        return [
            *([(0, before)] if before else []),
            *found,
            *([(self.steps[-1]["step"], after)] if after else []),
        ]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in these output folders, in this order; a folder named twice is read once.

    Raises:
        ConfigError: a folder is not there.
        DataError: it holds no metrics, or a file in it is damaged.
    """
    distinct = list({folder.resolve(): folder for folder in folders}.values())
    for folder in distinct:
        _check(folder)
    return [_read(folder, label) for folder, label in zip(distinct, _labels(distinct), strict=True)]


def _check(folder: Path) -> None:
    if not folder.is_dir():
        parent = folder.parent
        beside = sorted(entry.name for entry in parent.iterdir() if entry.is_dir()) if parent.is_dir() else []
        near = nearest(folder.name, beside)
        guess = f"; did you mean {str(parent / near)!r}?" if near else "; a run's output_dir is meant"
        raise ConfigError(f"there is no folder {str(folder)!r}{guess}")
    if not (folder / METRICS).is_file():
        within = sorted(entry.name for entry in folder.iterdir() if (entry / METRICS).is_file())
        guess = f"; the runs in it are {', '.join(within[:8])}" if within else "; `prefopt train CONFIG` writes one"
        raise DataError(f"{str(folder)!r} holds no {METRICS}{guess}")


def _read(folder: Path, label: str) -> Run:
    steps, cut = _steps(folder / METRICS)
    record, evaluation = _json(folder / RUN), _json(folder / EVALUATION)
    remarks = []
    if record is None:
        remarks.append(f"no {RUN}: the run is not finished, was stopped, or is still running; shown is what there is")
    if cut:
        remarks.append(f"the last line of {METRICS} is cut short and left out")
    config: Mapping[str, Any] = {}
    if (folder / CONFIG).is_file():
        config = read_yaml(folder / CONFIG)
    else:
        remarks.append(f"no {CONFIG}: its settings are not compared")
    if record is not None:
        for source in (record.get("warnings"), (record.get("data") or {}).get("notes")):
            remarks += [str(line) for line in source or ()]
    return Run(label, folder, steps, config, record, evaluation, tuple(remarks))


def _steps(path: Path) -> tuple[tuple[Mapping[str, Any], ...], bool]:
    *whole, rest = path.read_bytes().split(b"\n")
    found: dict[int, Mapping[str, Any]] = {}
    for number, line in enumerate(whole, 1):
        try:
            metrics = json.loads(line)
            if type(metrics["step"]) is not int or not isinstance(metrics.get("evaluation") or {}, dict):
                raise TypeError
            found[metrics["step"]] = metrics
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"{path}, line {number}: not the metrics of a step; restore it or remove the line"
            ) from None
    if not found:
        raise DataError(f"{str(path)!r} holds no step yet; wait until one is done")
    return tuple(found[step] for step in sorted(found)), bool(rest)


def _json(path: Path) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{str(path)!r} is no JSON ({error}); restore or remove it") from None
    if not isinstance(values, dict):
        raise DataError(f"{str(path)!r} holds no JSON object; restore or remove it")
    return values


def _labels(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        ends = [os.path.join(*each[-length:]) for each in parts]
        if len(set(ends)) == len(ends):
            return ends
    return [str(folder) for folder in folders]
