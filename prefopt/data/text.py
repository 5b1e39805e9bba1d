"""One value of a row -> text, a conversation or token ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from prefopt.data.bad_row import BadRow

Ids: TypeAlias = tuple[int, ...]
Conversation: TypeAlias = list[dict[str, Any]]
Text: TypeAlias = str | Conversation | Ids


def read_text(name: str, value: object, *, ids_only: bool) -> Text:
    """Tells text, a conversation and token ids apart, and checks every message.

    Args:
        name: What the value is called in the data.
        value: What stands there.
        ids_only: Whether its name promises token ids.

    Raises:
        BadRow: It is none of the three, or a message lacks role or content.
    """
    if isinstance(value, str) and not ids_only:
        return value
    if isinstance(value, (list, tuple)):
        if not value and not ids_only:
            raise BadRow(f"{name} is an empty list")
        if all(isinstance(item, int) and not isinstance(item, bool) for item in value):
            return tuple(value)
        if not ids_only and any(isinstance(item, Mapping) for item in value):
            return [_message(f"message {index} of {name}", item) for index, item in enumerate(value, 1)]
    right = "a list of token ids" if ids_only else "text, a list of messages or a list of token ids"
    raise BadRow(f"{name} is {sort_of(value)}; it must be {right}")


def _message(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise BadRow(f"{name} is {sort_of(value)}; it must have a role and content")
    # parquet fills the keys that other rows have with None
    message: dict[str, Any] = without_none(value)
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        raise BadRow(f"{name} has no role")
    if content is None and not message.get("tool_calls"):
        raise BadRow(f"{name} has no content")
    if content is not None and not isinstance(content, str):
        raise BadRow(f"the content of {name} is {sort_of(content)}; it must be text")
    # templates tell a tool call by its content being None, present or not in the data
    return {"role": role, "content": content, **message}


def without_none(value: Any) -> Any:
    """A JSON value without the keys that hold None, at any depth.

    >>> without_none({"a": [{"b": None, "c": 1}]})
    {'a': [{'c': 1}]}
    """
    if isinstance(value, Mapping):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [without_none(item) for item in value]
    return value


def sort_of(value: object) -> str:
    """The value's sort as a predicate, for messages.

    >>> sort_of([{"role": "user"}]), sort_of(3)
    ('a conversation', 'of type int')
    """
    if isinstance(value, str):
        return "text"
    if isinstance(value, (list, tuple)) and value:
        if isinstance(value[0], Mapping):
            return "a conversation"
        if all(isinstance(item, int) for item in value):
            return "token ids"
    return f"of type {type(value).__name__}"
