"""Reference log-probs read from a store: what a run uses in place of a second model."""

from __future__ import annotations

import random
import shlex
from collections.abc import Sequence

import numpy as np
import torch

from prefopt.data.row import Row
from prefopt.data.trees import Tree, grow_rows
from prefopt.engine.logps import Scorer, TokenLogps
from prefopt.engine.parity import TOLERANCE_NATS
from prefopt.engine.ranks import ALONE, Ranks
from prefopt.errors import StoreError
from prefopt.reference.key import key
from prefopt.reference.origin import differing, made_by
from prefopt.reference.store import Store


class StoredReference:
    """The log-probs of stored completions under a model that need not be there."""

    def __init__(self, store: Store, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        """Read from a store.

        Args:
            store: holds every completion that will be asked for.
            device: where the values are wanted.
            dtype: of the policy's log-probs.
        """
        self._store = store
        self._device = device
        self._dtype = dtype

    def score(self, trees: Sequence[Tree], *, tokens_per_microbatch: int, ranks: Ranks = ALONE) -> TokenLogps:
        """Log-probs of every slot of the trees, looked up; every rank reads them all.

        Raises:
            StoreError: a completion is not stored, or a stored value is damaged.
        """
        identity = bytes.fromhex(self._store.identity)
        branches = sorted((slot, key(identity, tree.prompt, own)) for tree in trees for slot, own in tree.branches)
        pieces = []
        for found in self._store.read([own for _, own in branches]):
            if found is None:
                raise StoreError(
                    f"a completion of these rows is not in the log-prob store {self._store.place!r}; rows of a stream "
                    "are not scored during training: run `prefopt precompute` with the same config first"
                )
            pieces.append(found)
        values = torch.from_numpy(np.concatenate(pieces))
        return TokenLogps(values.to(self._device, self._dtype), tuple(map(len, pieces)))


def check_against(model: Scorer, store: Store, rows: Sequence[Row], *, num_rows: int, seed: int) -> float:
    """Score a sample of the rows again and hold it against what is stored.

    Args:
        model: the reference itself.
        store: holds every completion of the rows.
        rows: those of the run.
        num_rows: size of the sample.
        seed: draws it.

    Returns:
        The largest difference of a row, root mean square over its tokens, in nats.

    Raises:
        StoreError: a row differs by more than rounding in the model's precision; the message names it and the likely
            cause.
    """
    tolerance, worst = TOLERANCE_NATS[model.model.dtype], 0.0
    stored = StoredReference(store, device=model.device)
    for row in random.Random(seed).sample(rows, min(num_rows, len(rows))):
        trees = grow_rows([row])
        known = stored.score(trees, tokens_per_microbatch=1).values
        found = model.score(trees, tokens_per_microbatch=sum(tree.num_tokens for tree in trees)).values
        gap = float((found.float() - known).square().mean().sqrt())
        if not gap <= tolerance:
            raise StoreError(
                f"{row.name}: the stored reference log-probs differ from the model's by {gap:.2g} nats a token (root "
                f"mean square; rounding stays below {tolerance:g}), {_cause(store, trees[0], model)}; "
                f"`prefopt cache gc --reference {store.identity[:12]} --cache-dir {shlex.quote(store.place)} --yes` "
                "removes them"
            )
        worst = max(worst, gap)
    return worst


def _cause(store: Store, tree: Tree, model: Scorer) -> str:
    identity = bytes.fromhex(store.identity)
    place = store.find([key(identity, tree.prompt, tree.branches[0][1])])
    changed = differing(store.shards[int(place.shards[0])].about["made_by"], made_by(model.device))
    if changed:
        return f"and they were made with {changed}"
    return "although versions and device are the same: a model that was changed in memory must have written them"
