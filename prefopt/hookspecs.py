"""The extension surface, whole: a plugin is a module with any of these functions, marked `@prefopt.hookimpl`."""

from __future__ import annotations

import pluggy

from prefopt.loss import Loss
from prefopt.method import Method
from prefopt.task import Task

hookspec = pluggy.HookspecMarker("prefopt")
hookimpl = pluggy.HookimplMarker("prefopt")


@hookspec
def prefopt_register_losses() -> list[type[Loss]]:  # type: ignore[empty-body]
    """Return the loss classes this plugin brings. Called once, when a registry is built."""


@hookspec
def prefopt_register_methods() -> list[type[Method]]:  # type: ignore[empty-body]
    """Return the benchmark methods this plugin brings that are no losses. Called once, when a registry is built."""


@hookspec
def prefopt_register_tasks() -> list[type[Task]]:  # type: ignore[empty-body]
    """Return the benchmark tasks this plugin brings. Called once, when a registry is built."""
