"""The reference's log-probs, each computed once in all trials."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from prefopt.data.trees import Tree, prune
from prefopt.engine.logps import Scorer, TokenLogps
from prefopt.engine.ranks import ALONE, Ranks


class RememberedReference:
    """Log-probs of a frozen model, computed when a completion is first asked for and kept in memory."""

    def __init__(self, model: Scorer) -> None:
        """Compute nothing yet."""
        self._model = model
        self._known: dict[object, Tensor] = {}

    def score(self, trees: Sequence[Tree], *, tokens_per_microbatch: int, ranks: Ranks = ALONE) -> TokenLogps:
        """Log-probs of every slot of the trees, in the order of the slots."""
        keys = {slot: (tree.prompt, own.ids, own.scored) for tree in trees for slot, own in tree.branches}
        new = {slot for slot, key in keys.items() if key not in self._known}
        left = [pruned for tree in trees if (pruned := prune(tree, new))]
        if left:
            found = self._model.score(left, tokens_per_microbatch=tokens_per_microbatch, ranks=ranks)
            self._known |= zip((keys[slot] for slot in sorted(new)), found.split(), strict=True)
        return TokenLogps.gather({slot: self._known[key] for slot, key in keys.items()})
