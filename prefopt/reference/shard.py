"""One shard of the store: an immutable Arrow file of completions, sorted by key, that knows when it is damaged.

A shard is written whole or not at all, and its name is the digest of its bytes. Opening it maps it into memory and
checks everything but the log-probs; those are checked row by row as they are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from prefopt.errors import StoreError
from prefopt.reference.disk import cannot_write, file_digest, make_folder, sync_folder
from prefopt.reference.key import KEY_BYTES

FORMAT = "1"
SUFFIX, PARTIAL = ".arrow", ".partial"
_KEY = np.dtype(f"S{KEY_BYTES}")
_CHECK = np.dtype("<u8")
_SCHEMA = pa.schema([("key", pa.binary(KEY_BYTES)), ("logps", pa.list_(pa.float32())), ("check", pa.uint64())])
_ABOUT = "prefopt"  # the one entry of a file's metadata
_ABOUT_KEYS = {"format", "identity", "index", "made_by"}


class Entry(NamedTuple):
    """What is stored of one completion.

    Attributes:
        key: of the completion.
        values: [n] float32 log-probs of its scored tokens, nats.
    """

    key: bytes
    values: NDArray[np.float32]


class DamagedShardError(StoreError):
    """A shard is not what was written; one of another format or reference is whole, and no such thing."""


class Shard:
    """An open shard; its arrays are views of the mapped file.

    Attributes:
        path: the file.
        about: format, identity, and what the values were made by.
        keys: [n] sorted keys.
    """

    def __init__(self, path: Path, identity: str, place: str) -> None:
        """Map a file and check its index.

        Args:
            path: the file.
            identity: digest of the reference whose values it is expected to hold.
            place: the store, as the user named it.

        Raises:
            DamagedShardError: the file is not what was written.
            StoreError: it is of a format this version does not know, or another reference's.
        """
        self.path = path
        self._place = place
        batch, self.about = self._mapped()
        self.keys, self._offsets, self._values, self._checks = self._arrays(batch)
        if _index_digest(self.keys, self._offsets, self._checks) != self.about["index"]:
            raise self._damaged("its index does not match its checksum")
        if self.about["identity"] != identity:
            raise StoreError(
                f"shard {str(path)!r} holds values of reference {self.about['identity'][:12]}, but lies among those of "
                f"{identity[:12]}; move it to where it belongs, or delete it"
            )

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def num_tokens(self) -> int:
        """Log-probs held."""
        return int(self._offsets[-1])

    def find(self, keys: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """[k] the row of each key, -1 where it is not here."""
        rows = np.searchsorted(self.keys, keys)
        rows[rows == len(self.keys)] = 0
        return np.where(self.keys[rows] == keys, rows, -1)

    def read(self, row: int) -> NDArray[np.float32]:
        """[n] the log-probs of a row, checked.

        Raises:
            DamagedShardError: they are not what was written.
        """
        values: NDArray[np.float32] = self._values[self._offsets[row] : self._offsets[row + 1]]
        if _row_check(self.keys[row : row + 1].tobytes(), values) != self._checks[row]:
            raise self._damaged(f"row {row} does not match its checksum")
        return values

    def verify(self) -> None:
        """Hold the whole file against its name, every row included.

        Raises:
            DamagedShardError: a byte of it has changed.
        """
        if file_digest(self.path) != self.path.stem:
            raise self._damaged("its content does not match its name")
        for row in range(len(self)):
            self.read(row)

    def _mapped(self) -> tuple[pa.RecordBatch, dict[str, Any]]:
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(self.path)))
            about = json.loads((reader.schema.metadata or {}).get(_ABOUT.encode(), b"null"))
            if not isinstance(about, dict) or not _ABOUT_KEYS <= set(about):
                raise self._damaged("it is no shard of this store")
            if about["format"] != FORMAT:
                raise StoreError(
                    f"shard {str(self.path)!r} has format {about['format']!r}, and this version of prefopt reads "
                    f"{FORMAT!r} only; read it with the version that wrote it, or name another reference.cache_dir"
                )
            if reader.num_record_batches != 1:
                raise self._damaged(f"it holds {reader.num_record_batches} batches, not one")
            batch = reader.get_batch(0)
            batch.validate()
        except FileNotFoundError:
            raise
        except (OSError, ValueError, pa.ArrowException) as error:  # those of JSON and Unicode are ValueErrors
            raise self._damaged(f"it cannot be read as Arrow ({' '.join(str(error).split())[:120]})") from error
        return batch, about

    def _arrays(self, batch: pa.RecordBatch) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Keys, offsets, values and checks, as views."""
        if not batch.schema.equals(_SCHEMA) or not len(batch):
            raise self._damaged("its columns are not those of a shard")
        keys, lists, checks = batch.columns
        count = len(batch)
        offsets = np.frombuffer(lists.buffers()[1], "<i4", count + 1)
        return (
            np.frombuffer(keys.buffers()[1], _KEY, count),
            offsets,
            np.frombuffer(lists.values.buffers()[1], "<f4", len(lists.values)),
            np.frombuffer(checks.buffers()[1], _CHECK, count),
        )

    def _damaged(self, why: str) -> DamagedShardError:
        command = f"prefopt cache gc --damaged --cache-dir {shlex.quote(self._place)} --yes"
        return DamagedShardError(
            f"shard {str(self.path)!r} is damaged: {why}; none of its values are used: `{command}` removes it, and its "
            "rows are scored again"
        )


def write_shard(folder: Path, identity: str, entries: Sequence[Entry], made_by: Mapping[str, str]) -> Path:
    """Write a shard that is there whole, or not at all, whenever the machine stops.

    Args:
        folder: made where it does not exist.
        identity: digest of the reference.
        entries: at least one, in any order, no key twice.
        made_by: versions and the like, kept beside the values.

    Returns:
        Its file.

    Raises:
        StoreError: the folder cannot be written, or has no room left.
    """
    entries = sorted(entries, key=lambda entry: entry.key)
    keys = np.array([entry.key for entry in entries], dtype=_KEY)
    lengths = [len(entry.values) for entry in entries]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype("<i4")
    values = np.concatenate([entry.values for entry in entries]).astype("<f4")
    checks = np.array(
        [_row_check(entry.key, values[a:b]) for entry, (a, b) in zip(entries, pairwise(offsets.tolist()), strict=True)],
        dtype=_CHECK,
    )
    about = {
        "format": FORMAT,
        "identity": identity,
        "index": _index_digest(keys, offsets, checks),
        "made_by": dict(made_by),
    }
    columns = {
        "key": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(KEY_BYTES), len(keys), [None, pa.py_buffer(keys.tobytes())]
        ),
        "logps": pa.ListArray.from_arrays(pa.array(offsets), pa.array(values)),
        "check": pa.array(checks),
    }
    batch = pa.RecordBatch.from_pydict(columns, metadata={_ABOUT: json.dumps(about, sort_keys=True)})
    partial = folder / f"{uuid.uuid4().hex}{PARTIAL}"
    try:
        make_folder(folder)
        with partial.open("wb") as file:
            with pa.ipc.new_file(file, batch.schema) as writer:
                writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        final = partial.with_name(file_digest(partial) + SUFFIX)
        os.replace(partial, final)
        sync_folder(folder)
    except OSError as error:
        with suppress(OSError):  # a folder that takes no file may not let one go either
            partial.unlink(missing_ok=True)
        raise cannot_write(folder, error) from error
    return final


def _index_digest(*arrays: NDArray[Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def _row_check(key: bytes, values: NDArray[np.float32]) -> int:
    digest = hashlib.blake2b(key, digest_size=_CHECK.itemsize)
    digest.update(values.data)
    return int.from_bytes(digest.digest(), "little")
