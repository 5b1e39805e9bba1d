"""The kinds of things a plugin may bring, and what each of them must declare."""

from __future__ import annotations

import inspect
import keyword
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from prefopt.batch import RowKind
from prefopt.errors import PluginError
from prefopt.loss import Loss, Needs
from prefopt.method import Method
from prefopt.task import Knob, Task


@dataclass(frozen=True)
class Kind:
    """One kind of things that plugins bring.

    Attributes:
        one: what one of them is called.
        many: what several are called, and the attribute of `Registry` and `Plugin` that holds them.
        base: the class they derive from.
        namespace: kinds of one namespace share their names.
        declarations: raises `PluginError` where what only this kind declares is wrong.
    """

    one: str
    many: str
    base: type[Any]
    namespace: str
    declarations: Callable[[Any], None]

    @property
    def hook(self) -> str:
        """The hook that plugins bring them through."""
        return f"prefopt_register_{self.many}"

    def check(self, cls: Any) -> None:
        """Check one of those that a hook returned.

        Raises:
            PluginError: it is no class of this kind, lacks a declaration or a method, or takes arguments.
        """
        if not (isinstance(cls, type) and issubclass(cls, self.base)):
            raise PluginError(f"{self.hook} returned {cls!r}, which is no subclass of prefopt.{self.base.__name__}")
        this, name = f"{self.one} class {cls.__name__}", getattr(cls, "name", None)
        if not isinstance(name, str):
            raise PluginError(f"{this} has no `name`")
        if not is_name(name):
            raise PluginError(f"{this}: name {name!r} must be one lowercase word of letters, digits and _")
        self.declarations(cls)
        if missing := getattr(cls, "__abstractmethods__", ()):
            raise PluginError(f"{this} does not define {' and '.join(sorted(missing))}")
        if fault := _misfit(cls):
            raise PluginError(f"{this} must be made without arguments: {fault}")


def is_name(name: str) -> bool:
    """Whether `name` is one lowercase word of letters, digits and _, and no keyword of Python.

    >>> is_name("r_dpo"), is_name("r-dpo"), is_name("lambda")
    (True, False, False)
    """
    return re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None and not keyword.iskeyword(name)


def _check_loss(loss: type[Loss]) -> None:
    needs = getattr(loss, "needs", None)
    if not isinstance(needs, Needs):
        raise PluginError(f"loss class {loss.__name__} has no `needs`; declare what it reads with prefopt.Needs(...)")
    kinds = get_args(RowKind)
    if not needs.rows or not set(needs.rows) <= set(kinds):
        raise PluginError(
            f"loss class {loss.__name__}: needs.rows is {sorted(needs.rows)}; it must be a set of "
            f"{', '.join(kinds)}, as in {{'pairs'}}"
        )


def _check_method(method: type[Method]) -> None:
    this, wanted = f"method class {method.__name__}", "it must map names to (lowest, highest)"
    if not isinstance(method.tune, Mapping):
        raise PluginError(f"{this}: tune is {method.tune!r}; {wanted}")
    for name, bounds in method.tune.items():
        if not (isinstance(name, str) and _is_range(bounds)):
            raise PluginError(f"{this}: tune has {name!r}: {bounds!r}; {wanted}, two finite numbers in that order")


def _check_task(task: type[Task]) -> None:
    this, wanted = f"task class {task.__name__}", "it must map names to prefopt.Knob"
    if not isinstance(task.knobs, Mapping):
        raise PluginError(f"{this}: knobs is {task.knobs!r}; {wanted}")
    for name, knob in task.knobs.items():
        if not (isinstance(name, str) and isinstance(knob, Knob)):
            raise PluginError(f"{this}: knobs has {name!r}: {knob!r}; {wanted}")
        if not knob.accepts(knob.default):
            bounds = f" {knob.range}" if knob.range else ""
            raise PluginError(f"{this}: knob {name!r} has the default {knob.default!r}; it must be {knob.kind}{bounds}")
    if fault := _misfit(task.build, None, 0, **dict.fromkeys(task.knobs)):
        raise PluginError(f"{this}: `build` must take a seed and every knob by name: {fault}")


def _is_range(bounds: Any) -> bool:
    """Whether these are two finite numbers, the lower one first."""
    if not isinstance(bounds, Sequence) or len(bounds) != 2:
        return False
    numbers = all(isinstance(bound, (int, float)) and not isinstance(bound, bool) for bound in bounds)
    return numbers and math.isfinite(bounds[0]) and math.isfinite(bounds[1]) and bounds[0] < bounds[1]


def _misfit(function: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    """Why a call with these arguments would fail, or nothing."""
    try:
        inspect.signature(function).bind(*arguments, **named)
    except TypeError as error:
        return str(error)
    return ""


# Every loss is a method of the benchmark, so the two share their names.
LOSSES = Kind("loss", "losses", Loss, "methods", _check_loss)
METHODS = Kind("method", "methods", Method, "methods", _check_method)
TASKS = Kind("task", "tasks", Task, "tasks", _check_task)
KINDS = (LOSSES, METHODS, TASKS)
