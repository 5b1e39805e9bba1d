"""The unit of computation: one prompt, and every completion that branches from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from prefopt.data.row import Completion, Row


@dataclass(frozen=True, slots=True)
class Tree:
    """One prompt with its completions, each tied to a slot of the optimiser batch.

    Attributes:
        prompt: token ids.
        branches: (slot, completion) in the order of the slots.
    """

    prompt: tuple[int, ...]
    branches: tuple[tuple[int, Completion], ...]

    @property
    def num_tokens(self) -> int:
        """Tokens the model computes. The last token of a branch is predicted, never read."""
        return len(self.prompt) + sum(len(completion.ids) - 1 for _, completion in self.branches)


def grow(slots: Iterable[tuple[tuple[int, ...], Completion]], owners: Sequence[int]) -> list[Tree]:
    """One tree per distinct prompt; rows with an empty prompt (one token) each grow their own.

    One token is not worth sharing, and small trees spread more evenly over micro-batches and ranks.

    Args:
        slots: (prompt ids, completion) of every slot, in order.
        owners: the data row of every slot.

    Returns:
        Trees in the order in which their prompts first appear.
    """
    branches: dict[tuple[tuple[int, ...], int | None], list[tuple[int, Completion]]] = {}
    for slot, ((prompt, completion), owner) in enumerate(zip(slots, owners, strict=True)):
        branches.setdefault((prompt, owner if len(prompt) == 1 else None), []).append((slot, completion))
    return [Tree(prompt, tuple(found)) for (prompt, _), found in branches.items()]


def grow_rows(rows: Sequence[Row]) -> list[Tree]:
    """The trees of every completion of these rows, mismatched ones included, numbered in order."""
    owned = [(row.prompt, own, owner) for owner, row in enumerate(rows) for own in (*row.completions, *row.mismatched)]
    return grow([(prompt, own) for prompt, own, _ in owned], [owner for _, _, owner in owned])


def split(tree: Tree, max_tokens: int) -> Iterator[Tree]:
    """The tree in pieces of at most `max_tokens`, each with the prompt again.

    One prompt with one completion is never cut, so a piece of a single branch may exceed the limit.
    """
    piece: list[tuple[int, Completion]] = []
    size = len(tree.prompt)
    for branch in tree.branches:
        added = len(branch[1].ids) - 1
        if piece and size + added > max_tokens:
            yield Tree(tree.prompt, tuple(piece))
            piece, size = [], len(tree.prompt)
        piece.append(branch)
        size += added
    yield Tree(tree.prompt, tuple(piece))


def prune(tree: Tree, slots: set[int]) -> Tree | None:
    """The tree with the branches of these slots only; None when nothing is left."""
    kept = tuple(branch for branch in tree.branches if branch[0] in slots)
    return Tree(tree.prompt, kept) if kept else None


def largest_sequence(rows: Sequence[Row]) -> tuple[int, Row]:
    """The most tokens that one prompt with one completion asks the model to compute, and the row it is in."""
    return max(
        (
            (len(row.prompt) + len(completion.ids) - 1, row)
            for row in rows
            for completion in (*row.completions, *row.mismatched)
        ),
        key=lambda found: found[0],
    )
