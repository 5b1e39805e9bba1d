"""Where a prompt ends, once a tokenizer has had its way with prompt and completion together."""

from __future__ import annotations

from collections.abc import Sequence


def common_prefix(first: Sequence[object], *others: Sequence[object]) -> int:
    """How many leading items all sequences share.

    Args:
        first: Any sequence.
        others: More of them.

    >>> common_prefix("prompt", "program", "promise")
    3
    """
    for index, items in enumerate(zip(first, *others, strict=False)):
        if any(item != items[0] for item in items):
            return index
    return min(len(first), *map(len, others)) if others else len(first)


def split(prompt: list[int], fulls: Sequence[list[int]]) -> tuple[list[int], list[list[int]]]:
    """Cuts each full sequence where the first of them stops agreeing with the prompt.

    Args:
        prompt: Token ids of the prompt rendered alone.
        fulls: Token ids of prompt and completion rendered together, one a completion.

    Returns:
        What the prompt and all full sequences share, perhaps nothing, and the rest of each full sequence.
    """
    shared = common_prefix(prompt, *fulls)
    return prompt[:shared], [full[shared:] for full in fulls]
