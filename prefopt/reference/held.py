"""Reference log-probs scored once before step 1 and held in memory, so that training needs no second model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from prefopt.data.row import Completion
from prefopt.data.trees import Tree
from prefopt.engine.logps import LogpSource, TokenLogps
from prefopt.engine.ranks import ALONE, Ranks


class Key(NamedTuple):
    """What a completion's log-probs depend on, besides the model."""

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    scored: tuple[bool, ...]


class HeldReference:
    """The log-probs of known completions under a model that may be gone by now."""

    def __init__(self, values: Mapping[Key, Tensor], device: torch.device) -> None:
        """Hold values.

        Args:
            values: completion -> [n] log-probs of its scored tokens, nats.
            device: where they are asked for.
        """
        self._values = values
        self._device = device

    @classmethod
    def of(
        cls, model: LogpSource, trees: Sequence[Tree], *, tokens_per_microbatch: int, ranks: Ranks = ALONE
    ) -> HeldReference:
        """Score every completion of the trees with `model`."""
        logps = model.score(trees, tokens_per_microbatch=tokens_per_microbatch, ranks=ranks)
        pieces = logps.values.cpu().split(list(logps.lengths))  # type: ignore[no-untyped-call]
        branches = ((_key(tree.prompt, completion), slot) for tree in trees for slot, completion in tree.branches)
        return cls({key: pieces[slot] for key, slot in branches}, logps.values.device)

    @property
    def num_completions(self) -> int:
        """Distinct completions held."""
        return len(self._values)

    @property
    def num_bytes(self) -> int:
        """Memory of the values."""
        return sum(values.nbytes for values in self._values.values())

    def score(self, trees: Sequence[Tree], *, tokens_per_microbatch: int, ranks: Ranks = ALONE) -> TokenLogps:
        """Log-probs of every slot of the trees, looked up; every rank holds them all.

        Raises:
            KeyError: a completion was not among those scored.
        """
        branches = ((tree.prompt, slot, completion) for tree in trees for slot, completion in tree.branches)
        found = TokenLogps.gather({slot: self._values[_key(prompt, own)] for prompt, slot, own in branches})
        return TokenLogps(found.values.to(self._device), found.lengths)


def _key(prompt: tuple[int, ...], completion: Completion) -> Key:
    return Key(prompt, completion.ids, completion.scored)
