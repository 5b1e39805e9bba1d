"""Cutting the trees of an optimiser batch into micro-batches under a token budget."""

from __future__ import annotations

from collections.abc import Iterable

from prefopt.data.trees import Tree, split


def cut(trees: Iterable[Tree], max_tokens: int, *, shared_prompts: bool = True) -> list[list[Tree]]:
    """Micro-batches of at most `max_tokens` each, padding included.

    Args:
        trees: whole trees; one over the budget is split and its prompt computed again.
        max_tokens: rows times the longest row. One prompt with one completion is never cut.
        shared_prompts: False lays every completion out as a plain row with its own copy of the prompt.

    Returns:
        Micro-batches of trees of similar length, the longest first.
    """
    limit = max_tokens if shared_prompts else 0
    pieces = sorted((piece for tree in trees for piece in split(tree, limit)), key=lambda tree: -tree.num_tokens)
    microbatches: list[list[Tree]] = []
    for piece in pieces:
        current = microbatches[-1] if microbatches else []
        if current and (len(current) + 1) * current[0].num_tokens <= max_tokens:
            current.append(piece)
        else:
            microbatches.append([piece])
    return microbatches
