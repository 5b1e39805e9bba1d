"""The log-probs of one reference: a folder of immutable shards that any number of processes add to without locks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefopt.errors import StoreError
from prefopt.reference.key import KEY_BYTES
from prefopt.reference.mirror import Mirror
from prefopt.reference.shard import SUFFIX, Entry, Shard, write_shard


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
        self.shards = [Shard(path, identity) for path in shard_files(self.folder)]

    @property
    def folder(self) -> Path:
        """The local folder of the shards."""
        return self._mirror.folder

    @property
    def place(self) -> str:
        """The store as the user named it."""
        return self._mirror.place

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

    def read(self, keys: Sequence[bytes]) -> list[NDArray[np.float32]]:
        """The log-probs of these completions, each checked as it is read.

        Raises:
            KeyError: one is not stored.
            StoreError: one is not what was written.
        """
        places = self.find(keys)
        if places.missing.any():
            raise KeyError(keys[int(places.missing.argmax())].hex())
        return [self.shards[shard].read(row) for shard, row in zip(*map(np.ndarray.tolist, places), strict=True)]

    def add(self, entries: Iterable[Entry], made_by: Mapping[str, str]) -> None:
        """Write one shard, durably, and see it from now on; no entries: nothing.

        Raises:
            StoreError: it could not be written; nothing that was there before is lost.
        """
        entries = list(entries)
        if entries:
            path = write_shard(self.folder, self.identity, entries, made_by)
            self.shards.append(Shard(path, self.identity))
            self._mirror.push(path)

    def check_writable(self) -> None:
        """Make the folder, and refuse one that takes no file, before anything is scored for it.

        Raises:
            StoreError: it cannot be written.
        """
        self._mirror.check_writable()


def shard_files(folder: Path) -> list[Path]:
    """The finished shards of a folder, by name; none where there is no folder."""
    try:
        return sorted(path for path in folder.glob(f"*{SUFFIX}") if path.is_file())
    except OSError as error:
        raise StoreError(
            f"the log-prob store {str(folder)!r} cannot be read ({error.strerror}); make it readable, or name another "
            "reference.cache_dir"
        ) from error
