"""Scoring what a store lacks: forward only, chunk after chunk, each finished shard kept whatever happens next."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from prefopt.data.row import Row
from prefopt.data.trees import Tree, grow_rows, prune
from prefopt.data.views import At
from prefopt.engine.logps import Scorer
from prefopt.engine.ranks import ALONE, Ranks
from prefopt.errors import ModelError, StoreError
from prefopt.reference.key import key
from prefopt.reference.shard import Entry
from prefopt.reference.store import Store

# Micro-batches of a chunk: enough to fill them evenly. Chunks follow from the data and the budget alone, so that a run
# that was interrupted packs the rest as an uninterrupted one would, and its values are the same to the last bit.
_CHUNK_MICROBATCHES = 8
_LOOK_UP_TOKENS = 2**18
_SHARD_SECONDS = 60.0
_SHARD_BYTES = 2**25


@dataclass(frozen=True)
class Filled:
    """What it took to fill a store.

    Attributes:
        rows_scored: rows of which a completion was not stored.
        rows_reused: the others.
        num_completions: completions scored.
    """

    rows_scored: int
    rows_reused: int
    num_completions: int


def fill(
    store: Store,
    rows: Iterable[Row],
    model: Callable[[Sequence[Row]], Scorer],
    *,
    tokens_per_microbatch: int,
    made_by: Mapping[str, str],
    ranks: Ranks = ALONE,
    passed: Callable[[int, int], None] = lambda num_rows, num_new: None,
) -> Filled:
    """Score every completion of the rows that the store lacks.

    Args:
        store: where the values go, whole shards at a time.
        rows: read once; they need not fit into memory.
        model: gives the reference as it may be used on these rows; not called where nothing is missing.
        tokens_per_microbatch: memory budget.
        made_by: what is kept beside the values.
        ranks: processes that share the work: each takes its own chunks and writes its own shards.
        passed: told after each chunk how many rows it had, and of how many a completion was scored.

    Raises:
        ModelError: a log-prob is not finite; the message names the row.
        StoreError: a shard could not be written, or a stored value is damaged.
    """
    shard = _GrowingShard(store, made_by)
    identity = bytes.fromhex(store.identity)
    rows_scored = rows_reused = num_completions = 0
    try:
        for number, chunk in enumerate(_chunks(rows, _CHUNK_MICROBATCHES * tokens_per_microbatch)):
            if number % ranks.count != ranks.index:
                passed(len(chunk), 0)
                continue
            missing = _missing(chunk, identity, store, shard.pending)
            new_rows = list(dict.fromkeys(missing.owners.values()))
            if new_rows:
                scorer = model([chunk[owner] for owner in new_rows])
                shard.grow(_scored(scorer, chunk, missing, tokens_per_microbatch))
            num_completions += len(missing.owners)
            rows_scored += len(new_rows)
            rows_reused += len(chunk) - len(new_rows)
            shard.flush_if_due()
            passed(len(chunk), len(new_rows))
    except StoreError:
        raise
    except BaseException:
        shard.flush()
        raise
    shard.flush()
    return Filled(rows_scored, rows_reused, num_completions)


def look_up(store: Store, rows: Sequence[Row], ranks: Ranks = ALONE) -> tuple[Sequence[Row], Sequence[Row]]:
    """The rows that are stored, and those of which a completion is not; what is stored is read, and so checked.

    Args:
        store: of the reference.
        rows: those of a run.
        ranks: processes that look at the same rows: what one of them misses is missing, though another run may have
            stored it a moment later.

    Raises:
        StoreError: a stored value is damaged.
    """
    identity = bytes.fromhex(store.identity)
    lacking = bytearray(len(rows))  # one byte a row: there are as many as the run has
    place = 0
    for chunk in _chunks(rows, _LOOK_UP_TOKENS):
        keys = [key(identity, row.prompt, own) for row in chunk for own in (*row.completions, *row.mismatched)]
        found = iter(store.read(keys))
        for row in chunk:
            values = [next(found) for _ in (*row.completions, *row.mismatched)]
            lacking[place] = any(own is None for own in values)
            place += 1
    missing = ranks.union(torch.frombuffer(lacking, dtype=torch.uint8)) if lacking else torch.zeros(0)
    places = [array("q", (missing == wanted).nonzero()[:, 0].tolist()) for wanted in (0, 1)]
    return At(rows, places[0]), At(rows, places[1])


class _GrowingShard:
    """Entries scored and not yet written."""

    def __init__(self, store: Store, made_by: Mapping[str, str]) -> None:
        self.pending: dict[bytes, Entry] = {}
        self._store = store
        self._made_by = made_by
        self._num_bytes = 0
        self._written = time.monotonic()

    def grow(self, entries: Iterable[Entry]) -> None:
        """Take entries in."""
        for entry in entries:
            self.pending[entry.key] = entry
            self._num_bytes += entry.values.nbytes

    def flush_if_due(self) -> None:
        """Write a shard when there is much to lose."""
        if self._num_bytes >= _SHARD_BYTES or time.monotonic() - self._written >= _SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what there is."""
        self._store.add(self.pending.values(), self._made_by)
        self.pending = {}
        self._num_bytes = 0
        self._written = time.monotonic()


def _chunks(rows: Iterable[Row], num_tokens: int) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += len(row.prompt) + sum(len(own.ids) for own in (*row.completions, *row.mismatched))
        if size >= num_tokens:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class _Missing(NamedTuple):
    """What a chunk has that is stored nowhere, each completion once.

    Attributes:
        trees: the completions with their prompts.
        owners: slot -> row of the chunk, in the order of the slots.
        keys: those of the slots, in the same order.
    """

    trees: list[Tree]
    owners: dict[int, int]
    keys: list[bytes]


def _missing(chunk: Sequence[Row], identity: bytes, store: Store, pending: Mapping[bytes, Entry]) -> _Missing:
    trees = grow_rows(chunk)
    keys = {slot: key(identity, tree.prompt, own) for tree in trees for slot, own in tree.branches}
    owners = [owner for owner, row in enumerate(chunk) for _ in (*row.completions, *row.mismatched)]
    found = store.read([keys[slot] for slot in range(len(owners))])  # and so checked: precompute vouches for them
    first: dict[bytes, int] = {}
    for slot in range(len(owners)):
        if found[slot] is None and keys[slot] not in pending:
            first.setdefault(keys[slot], slot)
    wanted = set(first.values())
    pruned = [left for tree in trees if (left := prune(tree, wanted))]
    return _Missing(pruned, {slot: owners[slot] for slot in first.values()}, list(first))


def _scored(scorer: Scorer, chunk: Sequence[Row], missing: _Missing, tokens_per_microbatch: int) -> Iterator[Entry]:
    logps = scorer.score(missing.trees, tokens_per_microbatch=tokens_per_microbatch)
    pieces = torch.split(logps.values.float().cpu(), list(logps.lengths))
    for own_key, owner, piece in zip(missing.keys, missing.owners.values(), pieces, strict=True):
        if not piece.isfinite().all():
            raise ModelError(
                f"{chunk[owner].name}: the reference gives a log-prob of {piece[~piece.isfinite()][0].item()}; it is "
                "not stored"
            )
        yield Entry(own_key, piece.numpy())
