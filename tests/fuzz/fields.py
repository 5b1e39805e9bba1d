"""Every key a config has, found by walking its sections, with values that fit and values that cannot."""

from __future__ import annotations

import datetime
import math
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from hypothesis import strategies as st

from prefopt.config import RunConfig
from prefopt.loss import Loss
from prefopt.section import Section

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Field:
    """One key: where it stands in the YAML file, and what its section declares for it."""

    path: Path
    annotation: Any
    metadata: tuple[Any, ...]

    def __repr__(self) -> str:
        return ".".join(map(str, self.path))


def fields_of(section: type[Section] = RunConfig, path: Path = ()) -> Iterator[Field]:
    """Every key of a section and of those inside it; of a list of sections, the keys of the first."""
    for name, info in section.model_fields.items():
        yield Field((*path, name), info.annotation, tuple(info.metadata))
        for inner, listed in _sections_in(info.annotation):
            yield from fields_of(inner, (*path, name, 0) if listed else (*path, name))


def hyperparameters_of(loss: type[Loss]) -> list[Field]:
    """The keys a loss itself declares."""
    return [Field(("loss", name), info.annotation, tuple(info.metadata)) for name, info in loss.model_fields.items()]


# What a file can hold for a value, as tags say it: PyYAML makes dates of some texts and sets of others.
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([10**30, -(10**30), 2**63, 1e300, -1e-300, 0.5, 1.0, math.nan, math.inf, -math.inf]),
    st.floats(),
    st.sampled_from(
        ["", " ", "\0", "nul\0in it", "\ud800", "\u202egnol", "\U0001f4a9", "a\nb", "null ", "1e-6x", "~", "é" * 300]
    ),
    st.text(max_size=6),
    st.sampled_from([datetime.date(2026, 1, 1), datetime.datetime(2026, 1, 1, 12), b"\x00\xff", {"a", "b"}]),
    st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=2)), max_size=2),
    st.dictionaries(st.one_of(st.text(max_size=3), st.integers(), st.none()), st.integers(), max_size=2),
)


def misfits(field: Field) -> st.SearchStrategy[Any]:
    """Values that the declaration of a field rules out, by the reading of this file, which is not pydantic's."""
    return JUNK.filter(lambda value: fits(field.annotation, field.metadata, value) is False)


def fits(annotation: Any, metadata: tuple[Any, ...], value: Any) -> bool | None:
    """Whether a value is of the type and in the range; None where that is not told here (a section, a list)."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return fits(inner, (*metadata, *more), value)
    if get_origin(annotation) in (Union, types.UnionType):
        found = [fits(part, metadata, value) for part in get_args(annotation)]
        return True if True in found else None if None in found else False
    if annotation is None or annotation is type(None):
        return value is None
    if get_origin(annotation) is Literal:
        return any(type(value) is type(own) and value == own for own in get_args(annotation))
    if annotation is bool:
        return isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool) and _in_range(metadata, value)
    if annotation is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) < 1e308 and math.isfinite(value) and _in_range(metadata, value)
    if annotation is str:
        return isinstance(value, str) and _in_range(metadata, value)
    # Sections and lists have short forms; only what no form can be is told.
    return None if isinstance(value, str | list | dict) else False


def fitting(field: Field) -> st.SearchStrategy[Any]:
    """Small values that the declaration allows; texts are any, so a path among them names nothing."""
    return _fitting(field.annotation, field.metadata)


def _fitting(annotation: Any, metadata: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _fitting(inner, (*metadata, *more))
    if get_origin(annotation) in (Union, types.UnionType):
        return st.one_of(*(_fitting(part, metadata) for part in get_args(annotation)))
    if annotation is None or annotation is type(None):
        return st.none()
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        return st.sampled_from([0, 1, 2, 3, 4, 7, 2**31, 2**62]).filter(lambda value: _in_range(metadata, value))
    if annotation is float:
        numbers = [0, 1, 0.0, 1e-300, 1e-9, 1e-3, 0.5, 1.0, 2.0, 1e9, 1e300]
        return st.sampled_from(numbers).filter(lambda value: _in_range(metadata, value))
    if annotation is str:
        return st.text(min_size=1, max_size=5)
    return st.nothing()


def _in_range(metadata: tuple[Any, ...], value: Any) -> bool:
    for bound in metadata:
        if isinstance(bound, annotated_types.Ge) and not value >= bound.ge:
            return False
        if isinstance(bound, annotated_types.Gt) and not value > bound.gt:
            return False
        if isinstance(bound, annotated_types.Le) and not value <= bound.le:
            return False
        if isinstance(bound, annotated_types.Lt) and not value < bound.lt:
            return False
        if isinstance(bound, annotated_types.MinLen) and len(value) < bound.min_length:
            return False
    return True


def _sections_in(annotation: Any, listed: bool = False) -> Iterator[tuple[type[Section], bool]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation, listed
        return
    origin = get_origin(annotation)
    for part in get_args(annotation):
        yield from _sections_in(part, listed or origin is tuple)
