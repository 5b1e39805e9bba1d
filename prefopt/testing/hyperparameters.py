"""Checks of hyper-parameters: ranges, errors that name the field, round trips, and no option without effect."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st

from prefopt.errors import ConfigError
from prefopt.loss import Loss
from prefopt.testing.batches import cases, losses
from prefopt.testing.case import Case
from prefopt.testing.check import Broken, Subject, exists, on_loss, unless
from prefopt.testing.compare import differ, everything

_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_has_fields = unless("it has no hyper-parameters", lambda loss: loss.model_fields)


@on_loss()
def ranges(subject: Subject) -> None:
    """The defaults are valid; what is unknown, of a wrong type or out of range is refused by name."""
    loss = subject.loss
    loss()
    _must_refuse(loss, "no_such_field", 1.0)
    for name, schema in loss.model_json_schema().get("properties", {}).items():
        numbers = _numbers(schema)
        if numbers and not any(bound in part for part in numbers for bound in _BOUNDS):
            raise Broken(
                f"{name} has no range; declare one with prefopt.field({loss.model_fields[name].default!r}, gt=...)"
            )
        for value in _invalid(schema, numbers):
            _must_refuse(loss, name, value)
        tune = schema.get("tune")
        if tune is not None:
            if not tune[0] < tune[1]:
                raise Broken(f"the tuning range of {name} is {tune}; its low end comes first")
            for end in tune:
                if not any(_within(end, part) for part in numbers):
                    raise Broken(f"the tuning range of {name} is {tune}, of which {end} is not valid")


def _numbers(schema: dict[str, Any]) -> list[dict[str, Any]]:
    parts = schema.get("anyOf", [schema])
    return [part for part in parts if part.get("type") in ("number", "integer") and not {"enum", "const"} & {*part}]


def _within(value: float, part: dict[str, Any]) -> bool:
    if not part.get("minimum", -math.inf) <= value <= part.get("maximum", math.inf):
        return False
    return bool(part.get("exclusiveMinimum", -math.inf) < value < part.get("exclusiveMaximum", math.inf))


def _invalid(schema: dict[str, Any], numbers: list[dict[str, Any]]) -> Iterator[Any]:
    """Values that the field must not take."""
    yield "no such value"
    yield ["a", "list"]
    for part in numbers:
        yield from (math.nan, math.inf, -math.inf)
        yield from (part[key] for key in ("exclusiveMinimum", "exclusiveMaximum") if key in part)
        if "minimum" in part:
            yield part["minimum"] - 1
        if "maximum" in part:
            yield part["maximum"] + 1
        if part["type"] == "integer":
            yield 0.5
    if schema.get("type") == "boolean":
        yield from (1, "true")


def _must_refuse(loss: type[Loss], name: str, value: Any) -> None:
    try:
        loss(**{name: value})
    except ConfigError as error:
        if name not in str(error):
            raise Broken(f"{name}={value!r} is refused without naming the field: {error}") from None
        return
    except Exception as error:
        raise Broken(f"{name}={value!r} raises {type(error).__name__}, not ConfigError") from None
    raise Broken(f"{name}={value!r} is accepted")


@on_loss(_has_fields)
def round_trip(subject: Subject) -> None:
    """Dumped and built again, from Python or from JSON, it is the same loss; its schema has defaults and ranges."""
    loss = subject.loss

    def changed(instance: Loss) -> bool:
        as_python = type(instance)(**instance.model_dump())
        as_json = type(instance)(**json.loads(instance.model_dump_json()))
        return not as_python == as_json == instance

    if exists(losses(loss), changed, 20):
        raise Broken("built again from model_dump or model_dump_json it is another loss")
    for name, schema in loss.model_json_schema()["properties"].items():
        if "default" not in schema:
            raise Broken(f"{name} has no default in the JSON schema; every hyper-parameter has the paper's")


@on_loss(_has_fields)
def no_silent_option(subject: Subject) -> None:
    """Every hyper-parameter changes values, gradients, rewards, metrics or state of some batch."""
    for name in subject.loss.model_fields:

        def changes(pair: tuple[Case, Loss], name: str = name) -> bool:
            case, other = pair
            try:
                loss = type(case.loss)(**{**case.loss.model_dump(), name: getattr(other, name)})
            except ConfigError:  # the two do not go together
                return False
            if loss == case.loss:
                return False
            changed = replace(case, loss=loss)
            return differ({**everything(case), **_rewards(case)}, {**everything(changed), **_rewards(changed)})

        if not exists(st.tuples(cases(subject.loss), losses(subject.loss)), changes, 200):
            raise Broken(f"{name} changes nothing in any batch tried")


def _rewards(case: Case) -> dict[str, Any]:
    sides = case.batch().sides().items()
    return {f"reward of {side}": case.loss.reward(one) for side, one in sides if side != "mismatched"}
