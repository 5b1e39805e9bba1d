"""A section of a YAML file that people write, and what is said when it is wrong."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any, get_args

import pydantic

from prefopt.errors import nearest


class Section(pydantic.BaseModel):
    """Keys and values, frozen; unknown keys are refused, and a value is of its type or wrong."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


_WANTED = {
    "bool_type": "must be true or false",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "model_type": "must be a mapping of keys to values",
    "string_too_short": "must not be empty",
    "string_type": "must be text",
    "string_unicode": "must be valid Unicode",
    "too_short": "must not be empty",
    "tuple_type": "must be a list",
}


# A value as a person would want to see it in a sentence; YAML's aliases make huge ones of a few lines.
_SHOWN = reprlib.Repr()
_SHOWN.maxlevel, _SHOWN.maxstring, _SHOWN.maxother, _SHOWN.maxlong = 3, 300, 300, 100


def explain(error: pydantic.ValidationError, root: type[Section]) -> str:
    """The first thing wrong, in one sentence: the key's path, its value, what is allowed, the nearest known key.

    Args:
        error: what pydantic found.
        root: the section that was validated.
    """
    # An unknown key often explains why another one is missing, so it is told first; of the members of a union, the one
    # whose type fits says more.
    first = min(error.errors(), key=lambda found: (found["type"] != "extra_forbidden", found["type"].endswith("_type")))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return message
    if not first["loc"]:
        return f"a key that is not valid Unicode; known here: {', '.join(sorted(root.model_fields))}"
    # Pydantic names the member of a union as if it were a key.
    loc = [key for key in first["loc"] if key == "model" or not str(key).startswith(("constrained-", "function-"))]
    path = ".".join(map(str, loc))
    section = _section_at(root, loc[:-1])
    key = str(loc[-1])
    if first["type"] == "extra_forbidden":
        known = sorted(section.model_fields)
        near = nearest(key, known)
        guess = f"did you mean {near!r}? " if near else ""
        return f"unknown key '{path}'; {guess}known here: {', '.join(known)}"
    if first["type"] == "missing":
        return f"'{path}' is missing; it is required"
    field = section.model_fields.get(key)
    scalar = field is not None and not field.is_required() and not isinstance(field.default, Section)
    default = f" (default {field.default!r})" if field is not None and scalar else ""
    wanted = _WANTED.get(first["type"]) or message.replace("Input should be", "must be")
    given = list(first["input"]) if isinstance(first["input"], tuple) else first["input"]
    return f"{path} = {_SHOWN.repr(given)}: it {wanted}{default}"


def _section_at(root: type[Section], keys: Sequence[int | str]) -> type[Section]:
    """The section that a path of keys leads into."""
    section = root
    for key in keys:
        field = section.model_fields.get(str(key))
        section = _section_in(field.annotation) or section if field is not None else section
    return section


def _section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part))), None)
