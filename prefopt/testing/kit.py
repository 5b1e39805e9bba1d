"""The checks by name, and what they say of a loss."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from prefopt.errors import UnknownNameError, nearest, unknown_name
from prefopt.loss import Loss
from prefopt.registry import Registry, load_registry
from prefopt.testing import (
    documentation,
    gradients,
    hyperparameters,
    identities,
    inputs,
    numerics,
    outputs,
    rows,
    stateful,
)
from prefopt.testing.check import Check, CheckFailed, NotApplicable

CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        check.name: check
        for check in (
            gradients.closed_form,
            gradients.finite_differences,
            gradients.reference_gradient,
            numerics.extremes,
            numerics.shape_and_dtype,
            outputs.terms,
            outputs.detached_metrics,
            outputs.reward,
            rows.row_independence,
            rows.coupling,
            rows.row_order,
            rows.row_weights,
            rows.absent_slots,
            inputs.undeclared_inputs,
            inputs.missing_inputs,
            inputs.row_kinds,
            inputs.determinism,
            inputs.inputs_untouched,
            stateful.state,
            stateful.draws,
            hyperparameters.ranges,
            hyperparameters.round_trip,
            hyperparameters.no_silent_option,
            identities.relations,
            documentation.name,
            documentation.docs_page,
            documentation.docstring,
            documentation.example,
        )
    }
)

Outcome = Literal["passed", "failed", "expected failure", "not applicable"]


@dataclass(frozen=True)
class Result:
    """What one check says of one loss.

    Attributes:
        loss: its name.
        check: its name.
        outcome: passed, failed, expected failure, or not applicable.
        message: why it failed or does not apply; the declared reason of an expected failure.
        snippet: Python that shows the failure.
        seconds: how long it took.
    """

    loss: str
    check: str
    outcome: Outcome
    message: str = ""
    snippet: str = ""
    seconds: float = 0.0


def check_loss(loss: type[Loss], registry: Registry | None = None, checks: Iterable[str] | None = None) -> list[Result]:
    """Hold a loss to every promise.

    Args:
        loss: the class.
        registry: knows the loss's plugin and the losses it is related to; absent: every installed plugin.
        checks: names of checks; absent: all.

    Raises:
        UnknownNameError: there is no check of that name.
    """
    names = list(CHECKS if checks is None else checks)
    for unknown in (name for name in names if name not in CHECKS):
        raise UnknownNameError(unknown_name("check", unknown, CHECKS))
    registry = registry or load_registry()
    return [*_wrong_expectations(loss), *(_result(CHECKS[name], loss, registry) for name in names)]


def wrong_expectations(loss: type[Loss]) -> Iterator[tuple[str, str]]:
    """(check, what is wrong) of `expected_failures` that name no check or give no reason."""
    for name, reason in loss.expected_failures.items():
        if name not in CHECKS:
            near = nearest(name, sorted(CHECKS))
            yield (
                name,
                "expected_failures names it, but there is no such check"
                + (f"; did you mean {near!r}?" if near else ""),
            )
        elif not reason.strip():
            yield name, "expected_failures gives no reason"


def _wrong_expectations(loss: type[Loss]) -> list[Result]:
    return [Result(loss.name, check, "failed", message) for check, message in wrong_expectations(loss)]


def _result(check: Check, loss: type[Loss], registry: Registry) -> Result:
    reason = loss.expected_failures.get(check.name)
    started = time.perf_counter()

    def result(outcome: Outcome, message: str = "", snippet: str = "") -> Result:
        return Result(loss.name, check.name, outcome, message, snippet, time.perf_counter() - started)

    try:
        check(loss, registry)
    except NotApplicable as why:
        if reason is not None:
            return result("failed", f"expected_failures names it, but it does not apply: {why}")
        return result("not applicable", str(why))
    except CheckFailed as failure:
        if reason is not None:
            return result("expected failure", reason)
        return result("failed", failure.reason, failure.snippet)
    if reason is not None:
        return result("failed", "expected to fail and passes now: remove it from expected_failures")
    return result("passed")
