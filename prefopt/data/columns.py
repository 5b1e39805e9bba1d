"""One raw row -> one checked row of text: which format its columns make, and whether its values will do."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

from prefopt.data.bad_row import BadRow
from prefopt.data.implicit import shared_messages, shared_text
from prefopt.data.text import Text, read_text, sort_of, without_none

if TYPE_CHECKING:
    from prefopt.batch import RowKind

# in the order of precedence: a row with the columns of two formats is read as the first
_FORMATS: tuple[tuple[RowKind, tuple[str, ...]], ...] = (
    ("pairs", ("chosen", "rejected")),
    ("rankings", ("prompt", "completions", "scores")),
    ("labels", ("prompt", "completion", "label")),
    ("demonstrations", ("prompt", "completion")),
    ("demonstrations", ("messages",)),
)


@dataclass(frozen=True)
class TextRow:
    """One row before tokenisation, its values checked.

    Attributes:
        kind: What the columns make of it.
        prompt: Text, a conversation, or token ids; the completions are of the same sort.
        completions: In the order of the kind, as in `Row`.
        scores: One a completion, or None for each.
        desirable: The label of a `labels` row, else None.
        weight: Positive.
        undesirable_weight: Positive; 1 unless a `labels` row says otherwise.
        tools: JSON schemas for the chat template, or None.
        ignored: The names of the columns that were not read.
    """

    kind: RowKind
    prompt: Text
    completions: tuple[Text, ...]
    scores: tuple[float | None, ...]
    desirable: bool | None
    weight: float
    undesirable_weight: float
    tools: list[Any] | None
    ignored: tuple[str, ...]


def read_row(raw: Mapping[str, Any] | str) -> TextRow:
    """Checks one row as `read_rows` yields it.

    Args:
        raw: Column names and values (a None value counts as absent), or the reason why there are none.

    Raises:
        BadRow: The columns make no format, or a value is missing, empty or of the wrong type.
    """
    if isinstance(raw, str):
        raise BadRow(raw)
    columns = _Columns(raw)
    kind, names = _format(columns)
    if kind == "pairs":
        prompt, completions = _pair(columns)
    elif kind == "rankings":
        prompt, completions = columns.text("prompt"), columns.texts("completions")
    elif names == ("messages",):
        prompt, completions = _demonstration(columns.text("messages"))
    else:
        prompt, completions = columns.text("prompt"), (columns.text("completion"),)
    _check_texts(kind, prompt, completions)
    return TextRow(
        kind=kind,
        prompt=prompt,
        completions=completions,
        scores=_scores(kind, columns, len(completions)),
        desirable=_label(columns) if kind == "labels" else None,
        weight=_weight("weight", columns),
        undesirable_weight=_weight("undesirable_weight", columns) if kind == "labels" else 1.0,
        tools=_tools(columns) if isinstance(prompt, list) else None,
        ignored=columns.unread(),
    )


class _Columns:
    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.values = {name: value for name, value in raw.items() if value is not None}
        self.read: set[str] = set()

    def find(self, column: str) -> str | None:
        """The name under which a column is there: its own, or one of those for token ids."""
        names = (column, f"{column}_ids", f"{column}_input_ids")
        return next((name for name in names if name in self.values), None)

    def unread(self) -> tuple[str, ...]:
        return tuple(name for name in self.values if name not in self.read)

    def take(self, name: str) -> Any:
        self.read.add(name)
        return self.values.get(name)

    def text(self, column: str) -> Text:
        name = self.find(column) or column
        return read_text(name, self.take(name), ids_only=name != column)

    def texts(self, column: str) -> tuple[Text, ...]:
        name = self.find(column) or column
        values = self.take(name)
        if not isinstance(values, (list, tuple)):
            raise BadRow(f"{name} is {sort_of(values)}; it must be a list of completions")
        ids_only = name != column
        return tuple(read_text(f"{name}[{i}]", value, ids_only=ids_only) for i, value in enumerate(values))


def _format(columns: _Columns) -> tuple[RowKind, tuple[str, ...]]:
    nearest: tuple[str, ...] = ()
    fewest_missing = len(_FORMATS)
    for kind, names in _FORMATS:
        missing = [name for name in names if columns.find(name) is None]
        if not missing:
            return kind, names
        told_apart = any(name != "prompt" for name in names if name not in missing)
        if told_apart and len(missing) < fewest_missing:
            nearest, fewest_missing = names, len(missing)
    if not nearest:
        present = ", ".join(columns.values) or "no value"
        formats = "; ".join(", ".join(names) for _, names in _FORMATS)
        raise BadRow(f"has {present}, which makes none of the formats: {formats}")
    known = ("prompt", *nearest) if nearest[0] == "chosen" else nearest
    found = [name for name in known if columns.find(name)]
    missing = [name for name in nearest if name not in found]
    raise BadRow(f"has {' and '.join(found)} but no {' and '.join(missing)}")


def _pair(columns: _Columns) -> tuple[Text, tuple[Text, ...]]:
    chosen, rejected = columns.text("chosen"), columns.text("rejected")
    prompt = columns.text("prompt") if columns.find("prompt") else None
    if isinstance(prompt, str) and isinstance(chosen, list) and isinstance(rejected, list):
        for name, messages in (("chosen", chosen), ("rejected", rejected)):
            first = next((m["content"] for m in messages if m["role"] == "user"), None)
            if first is None or first.strip() != prompt.strip():
                raise BadRow(f"prompt is text, and {name} is a conversation that does not begin with it")
        prompt = None
    if prompt is not None:
        return prompt, (chosen, rejected)
    if chosen == rejected:
        raise BadRow("chosen and rejected are equal")
    if isinstance(chosen, list) and isinstance(rejected, list):
        return shared_messages(chosen, rejected)
    if isinstance(chosen, str) and isinstance(rejected, str):
        return shared_text(chosen, rejected)
    if isinstance(chosen, tuple) and isinstance(rejected, tuple):
        raise BadRow("has chosen and rejected as token ids but no prompt")
    raise BadRow(f"chosen is {sort_of(chosen)} and rejected is {sort_of(rejected)}; they must be of one sort")


def _demonstration(messages: Text) -> tuple[Text, tuple[Text, ...]]:
    if not isinstance(messages, list):
        raise BadRow(f"messages is {sort_of(messages)}; it must be a list of messages")
    if len(messages) < 2:
        raise BadRow("messages holds one message; it needs a prompt and an answer")
    return messages[:-1], (messages[-1:],)


def _check_texts(kind: RowKind, prompt: Text, completions: Sequence[Text]) -> None:
    if kind == "rankings" and len(completions) < 2:
        raise BadRow(f"a ranking needs at least 2 completions; it has {len(completions)}")
    numbered = [f"completions[{index}]" for index in range(len(completions))]
    names = {"pairs": ["chosen", "rejected"], "rankings": numbered}.get(kind, ["completion"])
    for name, completion in zip(names, completions, strict=True):
        if type(completion) is not type(prompt):
            sorts = f"prompt is {sort_of(prompt)} and {name} is {sort_of(completion)}"
            raise BadRow(f"{sorts}; they must be of one sort")
        if isinstance(completion, list):
            _check_answer(name, completion[-1])
        elif not completion or (isinstance(completion, str) and not completion.strip()):
            raise BadRow(f"{name} is empty")
    if len(completions) > 1 and all(completion == completions[0] for completion in completions):
        raise BadRow(equal(kind))


def equal(kind: RowKind) -> str:
    """The reason why a row of that kind is refused when nothing is to choose between its completions."""
    return "chosen and rejected are equal" if kind == "pairs" else "all completions are equal"


def _check_answer(name: str, message: dict[str, Any]) -> None:
    if message["role"] != "assistant":
        raise BadRow(f"the last message of {name} is from {message['role']!r}; it must be the assistant's")
    if not (message["content"] or "").strip() and not message.get("tool_calls"):
        raise BadRow(f"{name} is empty: its last message says nothing")


def _scores(kind: RowKind, columns: _Columns, num_completions: int) -> tuple[float | None, ...]:
    if kind == "rankings":
        values = columns.take("scores")
        if not isinstance(values, (list, tuple)) or len(values) != num_completions:
            raise BadRow(f"scores must be a list of {num_completions} numbers, one a completion")
        scores = tuple(_number(f"scores[{index}]", value) for index, value in enumerate(values))
        if len(set(scores)) == 1:
            raise BadRow(f"scores are all {scores[0]:g}, so no completion is better than another")
        return scores
    if kind != "pairs":
        return (None,) * num_completions
    present = [
        next((name for name in (f"{side}_score", f"score_{side}") if name in columns.values), None)
        for side in ("chosen", "rejected")
    ]
    chosen, rejected = present
    if chosen is None and rejected is None:
        return (None, None)
    if chosen is None or rejected is None:
        missing = "chosen_score" if chosen is None else "rejected_score"
        raise BadRow(f"has {chosen or rejected} but no {missing}")
    return _number(chosen, columns.take(chosen)), _number(rejected, columns.take(rejected))


def _label(columns: _Columns) -> bool:
    label = columns.take("label")
    if not isinstance(label, bool):
        raise BadRow(f"label is {label!r}; it must be true or false")
    return label


def _weight(name: str, columns: _Columns) -> float:
    if name not in columns.values:
        return 1.0
    weight = _number(name, columns.take(name))
    if weight <= 0:
        raise BadRow(f"{name} is {weight:g}; it must be above 0")
    return weight


def _tools(columns: _Columns) -> list[Any] | None:
    if "tools" not in columns.values:
        return None
    tools = columns.take("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise BadRow(f"tools is not JSON: {error}") from error
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise BadRow("tools must be a list of JSON schemas, or a JSON string of one")
    return [without_none(tool) for tool in tools] or None


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BadRow(f"{name} is {value!r}; it must be a number")
    try:
        number = float(value)
    except OverflowError:
        raise BadRow(f"{name} is too large a number") from None
    if not math.isfinite(number):
        raise BadRow(f"{name} is {number}; it must be finite")
    return number
