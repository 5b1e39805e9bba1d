"""The interface of a benchmark task, and its knobs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from prefopt.errors import ConfigError, nearest


@dataclass(frozen=True)
class Knob:
    """One number, or one name, that a task can be turned by.

    Attributes:
        default: its value where a suite names none.
        description: what it is, in a few words.
        ge, gt, le, lt: bounds of valid numbers.
    """

    default: float | int | str | None
    description: str
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    @property
    def kind(self) -> str:
        """What a value is, in words."""
        if isinstance(self.default, str):
            return "a name or a path"
        return "a whole number" if isinstance(self.default, int) or self.default is None else "a number"

    @property
    def range(self) -> str:
        """The bounds in words."""
        bounds = {"at least": self.ge, "greater than": self.gt, "at most": self.le, "less than": self.lt}
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)

    def accepts(self, value: Any) -> bool:
        """Whether a value is of the knob's kind and within its bounds."""
        if value is None or isinstance(value, bool):
            return value is None and self.default is None
        if isinstance(self.default, str):
            return isinstance(value, str) and value != ""
        whole = isinstance(self.default, int) or self.default is None
        if not isinstance(value, int if whole else (int, float)):
            return False
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )


class Task(ABC):
    """A regime of the benchmark. A subclass sets `name` and `knobs`, and builds the world of a seed.

    The first line of its docstring is what `prefopt bench list` and the report say about it.

    Attributes:
        name: one lowercase word of letters, digits and _.
        knobs: name -> `Knob`.
    """

    name: ClassVar[str]
    knobs: ClassVar[Mapping[str, Knob]] = MappingProxyType({})

    @abstractmethod
    def build(self, *args: Any, **kwargs: Any) -> Any:
        """`build(seed, **knobs)`: the task of that seed, for the exact ones a `prefopt.worlds.World`."""
        raise NotImplementedError(f"{type(self).__name__} must define `build`")

    @classmethod
    def learning_rates(cls, settings: Mapping[str, Any]) -> tuple[float, float] | None:
        """(lowest, highest) learning rate that trials draw from where it is not the method's own; None: it is.

        Args:
            settings: all knobs, as `settings` gives them.
        """
        return None

    @classmethod
    def settings(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """All knobs, the given ones in place of their defaults.

        Raises:
            ConfigError: a knob is unknown, of the wrong type or out of its range.
        """
        for name, value in given.items():
            if name not in cls.knobs:
                near = nearest(name, sorted(cls.knobs))
                guess = f"; did you mean {near!r}" if near else ""
                known = ", ".join(sorted(cls.knobs)) or "none"
                raise ConfigError(f"task {cls.name} has no knob {name!r}{guess}; it has: {known}")
            knob = cls.knobs[name]
            if not knob.accepts(value):
                bounds = f" {knob.range}" if knob.range else ""
                raise ConfigError(
                    f"task {cls.name}: {name} = {value!r}; it must be {knob.kind}{bounds} (default {knob.default!r})"
                )
        return {name: given.get(name, knob.default) for name, knob in cls.knobs.items()}
