"""Cutting one row to length, by a rule that looks at nothing but the row."""

from __future__ import annotations

from dataclasses import replace

from prefopt.data.row import Completion
from prefopt.data.text import Ids


def truncate(
    prompt: Ids,
    completions: tuple[Completion, ...],
    max_length: int,
) -> tuple[Ids, tuple[Completion, ...]]:
    """Shortens a prompt from its left until the longest completion fits; then completions from their end.

    Args:
        prompt: At least one token, and one stays.
        completions: All completions of the prompt.
        max_length: Tokens of prompt and completion together, at least 2.
    """
    longest = max(len(completion.ids) for completion in completions)
    kept = prompt[-max(1, max_length - longest) :]
    return kept, tuple(cut(completion, max_length - len(kept)) for completion in completions)


def cut(completion: Completion, length: int) -> Completion:
    """The first `length` tokens of a completion; itself where it is no longer.

    Args:
        completion: Any.
        length: At least 1.
    """
    if len(completion.ids) <= length:
        return completion
    return replace(completion, ids=completion.ids[:length], scored=completion.scored[:length])
