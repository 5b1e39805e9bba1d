"""The log-probs of one reference: a folder of immutable shards that any number of processes add to without locks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefopt.reference.key import KEY_BYTES
from prefopt.reference.mirror import Mirror, is_remote
from prefopt.reference.shard import Entry, Shard, write_shard


class Places(NamedTuple):
    """Where completions are stored.

    Attributes:
        shards: [k] number of the shard, -1 where the completion is in none.
        rows: [k] row in it.
    """

    shards: NDArray[np.int64]
    rows: NDArray[np.int64]

    @property
    def missing(self) -> NDArray[np.bool_]:
        """[k] True where a completion is not stored."""
        return self.shards < 0


class Store:
    """Opened once; sees the shards that were there then, and those it wrote itself.

    Nothing is kept besides the shards: each is sorted, so a look-up is a binary search in every one of them, and adding
    to the store rebuilds nothing.
    """

    def __init__(self, cache_dir: str, identity: str) -> None:
        """Open the store of one reference, which need not exist yet.

        Args:
            cache_dir: a folder, or a URL that fsspec knows.
            identity: digest of the reference.

        Raises:
            StoreError: a shard is damaged, of another format or another reference's, or the place cannot be read.
        """
        self.identity = identity
        self._mirror = Mirror(cache_dir, identity)
        self._mirror.fetch()
        self.shards: list[Shard] = []
        for path in self._mirror.shards():
            with suppress(FileNotFoundError):  # it was deleted a moment ago
                self.shards.append(Shard(path, identity, self.place))

    @property
    def place(self) -> str:
        """The store as the user named it."""
        return self._mirror.place

    @property
    def whole_place(self) -> str:
        """The same, true in any folder."""
        return self.place if is_remote(self.place) else str(self._mirror.folder.parent.absolute())

    def find(self, keys: Sequence[bytes]) -> Places:
        """Where these completions are stored."""
        wanted = np.array(keys, dtype=f"S{KEY_BYTES}")
        shards = np.full(len(wanted), -1, dtype=np.int64)
        rows = np.full(len(wanted), -1, dtype=np.int64)
        left = np.arange(len(wanted))
        for number, shard in enumerate(self.shards):
            if not len(left):
                break
            found = shard.find(wanted[left])
            here = found >= 0
            shards[left[here]], rows[left[here]] = number, found[here]
            left = left[~here]
        return Places(shards, rows)

    def read(self, keys: Sequence[bytes]) -> list[NDArray[np.float32] | None]:
        """The log-probs of these completions, each checked as it is read; None where one is not stored.

        Raises:
            StoreError: one is not what was written.
        """
        places = self.find(keys)
        return [
            None if shard < 0 else self.shards[shard].read(row)
            for shard, row in zip(places.shards.tolist(), places.rows.tolist(), strict=True)
        ]

    def add(self, entries: Iterable[Entry], made_by: Mapping[str, str]) -> None:
        """Write one shard, durably, and see it from now on; no entries: nothing.

        Raises:
            StoreError: it could not be written or sent; nothing that was there before is lost.
        """
        entries = list(entries)
        if entries:
            path = write_shard(self._mirror.outbox, self.identity, entries, made_by)
            self._mirror.push()
            self.shards.append(Shard(self._mirror.folder / path.name, self.identity, self.place))

    def check_writable(self) -> None:
        """Make the folder, and refuse one that takes no file, before anything is scored for it.

        Raises:
            StoreError: it cannot be written.
        """
        self._mirror.check_writable()
