"""The kit as pytest cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefopt.loss import Loss
from prefopt.registry import Registry, load_registry
from prefopt.testing.check import Check, CheckFailed, NotApplicable
from prefopt.testing.kit import CHECKS, wrong_expectations


def parametrize_with_checks(*losses: str | type[Loss]) -> pytest.MarkDecorator:
    """A decorator that calls a test once for every check that applies to every loss.

    A check that the loss expects to fail is marked `xfail`, strictly: once it passes, the test fails.

    Args:
        losses: names of installed losses, or classes.

    >>> @parametrize_with_checks("my_loss")  # doctest: +SKIP
    ... def test_promise(check):
    ...     check()
    """
    registry = load_registry()
    classes = [registry.loss_class(loss) if isinstance(loss, str) else loss for loss in losses]
    return pytest.mark.parametrize("check", [case for loss in classes for case in _cases(loss, registry)])


def _cases(loss: type[Loss], registry: Registry) -> Iterator[Any]:
    for name, wrong in wrong_expectations(loss):
        yield pytest.param(_fails(name, loss, wrong), id=f"{loss.name}-{name}")
    for check in CHECKS.values():
        reason = loss.expected_failures.get(check.name)
        if check.applies(loss) and reason is None:
            continue
        marks = [pytest.mark.xfail(reason=reason, strict=True, raises=CheckFailed)] if reason else []
        yield pytest.param(_call(check, loss, registry), id=f"{loss.name}-{check.name}", marks=marks)


def _call(check: Check, loss: type[Loss], registry: Registry) -> Callable[[], None]:
    def call() -> None:
        try:
            check(loss, registry)
        except NotApplicable:
            # Only the run itself could tell; what is expected to fail must fail all the same.
            pass

    return call


def _fails(check: str, loss: type[Loss], wrong: str) -> Callable[[], None]:
    def fail() -> None:
        raise CheckFailed(check, loss.name, wrong, "")

    return fail
