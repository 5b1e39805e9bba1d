"""Cutting the trees of an optimiser batch into micro-batches under a token budget, the same on every rank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush

from prefopt.data.trees import Tree, split


def cut(trees: Iterable[Tree], max_tokens: int, *, packed: bool = True, num_ranks: int = 1) -> list[list[Tree]]:
    """Micro-batches of at most `max_tokens` each; rank r computes those at r, r + num_ranks, ...

    Args:
        trees: whole trees; one over the budget is split and its prompt computed again.
        max_tokens: tokens of a packed row, or plain rows times the longest; one prompt with one completion may exceed
            it.
        packed: False lays every completion out as a plain row with its own copy of the prompt.
        num_ranks: their number is a multiple of it; where the trees are too few, the last ones are empty.
    """
    limit = max_tokens if packed else 0
    pieces = sorted((piece for tree in trees for piece in split(tree, limit)), key=lambda tree: -tree.num_tokens)
    if packed:
        return _balanced(pieces, max_tokens, num_ranks)
    microbatches = _alike(pieces, max_tokens)
    return microbatches + [[] for _ in range(-len(microbatches) % num_ranks)]


def _balanced(pieces: Sequence[Tree], max_tokens: int, num_ranks: int) -> list[list[Tree]]:
    """As few micro-batches as fit, about equally full: each piece, the longest first, goes where the least is."""
    total = sum(piece.num_tokens for piece in pieces)
    # No more than there are pieces: each rank computes as often as any other, so an empty one costs a stand-in.
    count = min(-(-total // (max_tokens * num_ranks)), -(-len(pieces) // num_ranks)) * num_ranks
    while True:
        loads = [(0, number) for number in range(count)]
        microbatches: list[list[Tree]] = [[] for _ in range(count)]
        for piece in pieces:
            load, number = heappop(loads)
            if load and load + piece.num_tokens > max_tokens:
                break
            microbatches[number].append(piece)
            heappush(loads, (load + piece.num_tokens, number))
        else:
            return microbatches
        count += num_ranks


def _alike(pieces: Sequence[Tree], max_tokens: int) -> list[list[Tree]]:
    """Neighbours in length together, so that little padding remains."""
    microbatches: list[list[Tree]] = []
    for piece in pieces:
        current = microbatches[-1] if microbatches else []
        if current and (len(current) + 1) * current[0].num_tokens <= max_tokens:
            current.append(piece)
        else:
            microbatches.append([piece])
    return microbatches
