"""What lies in a store: every reference, its shards, what is damaged, and what can go."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefopt.errors import StoreError
from prefopt.reference.mirror import Mirror, identities
from prefopt.reference.shard import DamagedShardError, Shard

_ABANDONED_SECONDS = 3600.0  # a file that is still being written is younger


@dataclass
class Holding:
    """What is stored of one reference.

    Attributes:
        identity: digest of the reference.
        made_by: of its newest shard that can be opened: the reference by name and parts, versions, device.
        num_shards, num_completions, num_tokens: over the readable shards.
        num_bytes: of all shards.
        written: file of every shard -> when it was written, seconds since the epoch.
        damaged: file -> why it cannot be used.
        foreign: file of another format or reference -> what it is; whole as far as this version can tell.
        abandoned: files that a process left half-written.
    """

    identity: str
    made_by: dict[str, str] = field(default_factory=dict)
    num_shards: int = 0
    num_completions: int = 0
    num_tokens: int = 0
    num_bytes: int = 0
    written: dict[Path, float] = field(default_factory=dict)
    damaged: dict[Path, str] = field(default_factory=dict)
    foreign: dict[Path, str] = field(default_factory=dict)
    abandoned: list[Path] = field(default_factory=list)

    @property
    def newest(self) -> float:
        """When its last shard was written, seconds since the epoch."""
        return max(self.written.values(), default=0.0)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "identity": self.identity,
            "made_by": self.made_by,
            "num_shards": self.num_shards,
            "num_completions": self.num_completions,
            "num_tokens": self.num_tokens,
            "num_bytes": self.num_bytes,
            "oldest": min(self.written.values(), default=None),
            "newest": max(self.written.values(), default=None),
            "damaged": {str(path): why for path, why in self.damaged.items()},
            "foreign": {str(path): why for path, why in self.foreign.items()},
            "abandoned": [str(path) for path in self.abandoned],
        }


def catalogue(cache_dir: str, *, whole: bool = False) -> list[Holding]:
    """Every reference of a store that holds any file of it, the newest last.

    Args:
        cache_dir: a folder, or a URL that fsspec knows.
        whole: hold every byte of every shard against its checksum; otherwise the indices alone.

    Raises:
        StoreError: the place cannot be read.
    """
    found = []
    for identity in identities(cache_dir):
        mirror = Mirror(cache_dir, identity)
        mirror.fetch()
        one = _look(mirror, identity, whole)
        if one.written or one.abandoned:
            found.append(one)
    return sorted(found, key=lambda one: one.newest)


def _look(mirror: Mirror, identity: str, whole: bool) -> Holding:
    one, newest = Holding(identity), 0.0
    for path in mirror.shards():
        with suppress(FileNotFoundError):  # it was deleted a moment ago
            seen = path.stat()
            try:
                shard = Shard(path, identity, mirror.place)
                if seen.st_mtime >= newest:
                    newest, one.made_by = seen.st_mtime, shard.about["made_by"]
                if whole:
                    shard.verify()
                one.num_shards += 1
                one.num_completions += len(shard)
                one.num_tokens += shard.num_tokens
            except DamagedShardError as error:
                one.damaged[path] = str(error)
            except StoreError as error:
                one.foreign[path] = str(error)
            one.num_bytes += seen.st_size
            one.written[path] = seen.st_mtime
    for path in mirror.partials():
        with suppress(FileNotFoundError):  # it has been finished
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                one.abandoned.append(path)
    return one


def removable(holding: Holding, *, everything: bool, older_than: float | None, damaged: bool) -> list[Path]:
    """The files of a reference that can go: half-written ones always, shards as chosen.

    Args:
        holding: the reference.
        everything: its shards, whatever their age.
        older_than: only those written at least so many seconds ago.
        damaged: only those that cannot be used.
    """
    if not (everything or damaged or older_than is not None):
        return holding.abandoned
    least = 0.0 if older_than is None else older_than
    return [
        *holding.abandoned,
        *(
            path
            for path, written in holding.written.items()
            if time.time() - written >= least and (path in holding.damaged or not damaged)
        ),
    ]


def seconds(age: str) -> float:
    """An age such as 30d, 12h or 15m in seconds.

    Raises:
        StoreError: it is none.

    >>> seconds("12h")
    43200.0
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([dhm])", age)
    if match is None:
        raise StoreError(f"{age!r} is no age; write 30d (days), 12h (hours) or 15m (minutes)")
    return float(match[1]) * {"d": 86400.0, "h": 3600.0, "m": 60.0}[match[2]]
