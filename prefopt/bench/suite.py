"""A suite: which methods run on which tasks, with what budget."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml
from pydantic import Field

from prefopt.bench.cell import Cell
from prefopt.bench.losses import LossMethod
from prefopt.bench.trials import draw_trials
from prefopt.errors import ConfigError, nearest
from prefopt.loss import Loss
from prefopt.method import Budget, Method
from prefopt.registry import Registry
from prefopt.section import Section, explain
from prefopt.task import Task
from prefopt.yaml_file import parse_yaml, read_yaml

# In a checkout suites lie with the other things to re-run; in a wheel, beside this file.
_FOLDERS = (Path(__file__).parent / "suites", Path(__file__).parents[2] / "benchmarks" / "suites")

Knobs = dict[str, Any]


class Suite(Section):
    """A suite as its YAML file says it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """One lowercase word; the results go into a folder of that name."""
    description: str = ""
    """What it is for, in a sentence."""
    tasks: dict[str, Knobs] = Field(min_length=1)
    """Task -> its knobs; a list of values runs every one of them."""
    methods: Literal["all"] | list[str]
    """Names of losses and other methods, or all there are."""
    landmarks: list[str] = Field(default_factory=list)
    """Methods that readers know, shown in the report's plots beside the best."""
    trials: int = Field(16, ge=1)
    """Settings that each method tries."""
    validation_seeds: int = Field(3, ge=1)
    """Seeds on which settings are selected."""
    held_out_seeds: int = Field(5, ge=1)
    """Other seeds, on which they are reported."""
    steps: int = Field(400, ge=1)
    """Optimiser steps."""
    batch_size: int | None = Field(64, ge=1)
    """Rows a step; null: all rows in every step."""
    num_checkpoints: int = Field(4, ge=1)
    """How many policies of a run are measured: after all steps, half of them, a quarter and so on."""

    @property
    def budget(self) -> Budget:
        """What every method may spend."""
        halves = {self.steps // 2**number for number in range(self.num_checkpoints)} - {0}
        return Budget(self.steps, self.batch_size, tuple(sorted(halves)))

    @property
    def seeds(self) -> Mapping[str, tuple[int, ...]]:
        """Split -> its seeds; the two never meet."""
        return {
            "validation": tuple(range(1000, 1000 + self.validation_seeds)),
            "held_out": tuple(range(self.held_out_seeds)),
        }

    def cells(self, registry: Registry) -> list[Cell]:
        """Every cell, task by task.

        Raises:
            UnknownNameError: a task or method is not registered.
            ConfigError: a knob is unknown or out of range.
        """
        methods = [method_of(name, registry) for name in self._method_names(registry)]
        return [
            Cell(self.name, task, knobs, method.name, split, tuple(trials), seeds, self.budget)
            for task, knobs in self._settings(registry)
            for method in methods
            for trials in [draw_trials(_ranges(registry.task(task), knobs, method), self.trials)]
            for split, seeds in self.seeds.items()
        ]

    def _method_names(self, registry: Registry) -> list[str]:
        if self.methods == "all":
            return sorted({*registry.methods, *registry.losses})
        return list(dict.fromkeys(self.methods))

    def _settings(self, registry: Registry) -> Iterator[tuple[str, Knobs]]:
        for name, given in self.tasks.items():
            task = registry.task(name)
            options = [value if isinstance(value, list) else [value] for value in given.values()]
            for values in itertools.product(*options):
                yield name, task.settings(dict(zip(given, values, strict=True)))


def method_of(name: str, registry: Registry) -> Method:
    """The method of that name: one that is registered as such, or a loss.

    Raises:
        UnknownNameError: there is neither.
        PluginError: several installed plugins bring it.
    """
    found = registry.method_class(name)
    return LossMethod(found) if issubclass(found, Loss) else found()


def built_in_suites() -> dict[str, Path]:
    """Name -> file of the suites that come with the library."""
    return {file.stem: file for folder in _FOLDERS for file in sorted(folder.glob("*.yaml"))}


def load_suite(name: str, overrides: Sequence[str] = ()) -> Suite:
    """The suite in a YAML file, or the built-in one of that name.

    Args:
        name: a path, or a built-in suite's name.
        overrides: `key=value` settings that replace the file's; values are YAML.

    Raises:
        ConfigError: there is no such suite, or something in it is not valid.
    """
    path, built_in = Path(name), built_in_suites()
    if not path.is_file() and path.suffix not in (".yaml", ".yml"):
        if name not in built_in:
            near = nearest(name, sorted(built_in))
            guess = f"did you mean {near!r}? " if near else ""
            raise ConfigError(f"no suite {name!r}; {guess}give a YAML file, or one of: {', '.join(sorted(built_in))}")
        path = built_in[name]
    values = read_yaml(path)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"override {override!r} is not of the form key=value")
        values[key] = parse_yaml(text, f"override {override!r}")
    try:
        return Suite.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, Suite)}") from None


def to_yaml(suite: Suite) -> str:
    """The suite with every default spelled out; `load_suite` reads it back."""
    return yaml.safe_dump(suite.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _ranges(task: Task, knobs: Knobs, method: Method) -> Mapping[str, tuple[float, float]]:
    """What trials draw from: the method's ranges, the task's own where it has another learning rate."""
    own = {"learning_rate": task.learning_rates(knobs)}
    return {name: own.get(name) or found for name, found in method.tune.items()}
