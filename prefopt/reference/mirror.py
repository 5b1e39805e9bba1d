"""Where the shards of a reference lie: a local folder itself, or any other place fsspec knows, through a local copy."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec

from prefopt.errors import StoreError
from prefopt.reference.disk import cannot_write, file_digest, local_cache, make_folder
from prefopt.reference.shard import PARTIAL, SUFFIX


def default_cache_dir() -> str:
    """Where reference log-probs are stored unless a config says otherwise."""
    return str(local_cache() / "references")


def is_remote(cache_dir: str) -> bool:
    """Whether a place is no local folder: a URL such as `s3://bucket/logps` or `memory://logps`."""
    return "://" in cache_dir and not cache_dir.startswith(("file://", "local://"))


def identities(cache_dir: str) -> list[str]:
    """The references a store holds anything of.

    Raises:
        StoreError: the place cannot be read.
    """
    if is_remote(cache_dir):
        files, root = _connected(cache_dir)
        names = _listed(files, root, cache_dir)
    else:
        names = _local_names(_local(cache_dir))
    return sorted(name for name in names if re.fullmatch("[0-9a-f]{64}", name))


class Mirror:
    """The local folder of one reference's shards, and the exchange of whole shards with a remote place.

    Attributes:
        place: the store as the user named it.
        folder: the shards, as at the remote place where there is one.
        outbox: where new shards are written; those that a remote place has not been sent yet stay there.
    """

    def __init__(self, cache_dir: str, identity: str) -> None:
        """Name the places; nothing is read or made yet.

        Args:
            cache_dir: a folder, or a URL that fsspec knows.
            identity: digest of the reference.

        Raises:
            StoreError: fsspec does not know the URL's protocol, a library for it is missing, or it refuses.
        """
        self.place = cache_dir
        self._files: Any = None
        if not is_remote(cache_dir):
            self.folder = self.outbox = _local(cache_dir) / identity
            return
        self._files, root = _connected(cache_dir)
        self._remote = f"{root}/{identity}"
        url = hashlib.sha256(cache_dir.rstrip("/").encode()).hexdigest()[:16]
        self.folder = local_cache() / "mirrors" / url / identity
        self.outbox = self.folder / "outbox"

    def shards(self) -> list[Path]:
        """The finished shards, by name.

        Raises:
            StoreError: the folder cannot be read.
        """
        return sorted(
            (folder / name for folder in {self.folder, self.outbox} for name in _local_names(folder, SUFFIX)),
            key=lambda path: path.name,
        )

    def partials(self) -> list[Path]:
        """Files that are being written, or were when their writer was stopped."""
        return sorted(folder / name for folder in {self.folder, self.outbox} for name in _local_names(folder, PARTIAL))

    def fetch(self, at_most: int | None = None) -> None:
        """Make the folder as the remote place is: what it lacks is copied, what was deleted there is deleted.

        Args:
            at_most: copy no more files than this, and delete none.

        Raises:
            StoreError: the place cannot be reached.
        """
        if self._files is None:
            return
        here = set(_local_names(self.folder, SUFFIX))  # before looking there: what is sent in between stays
        there = self._there()
        for name in [name for name in there if name not in here][:at_most]:
            self._get(name)
        if at_most is None:
            for name in here - set(there):
                (self.folder / name).unlink(missing_ok=True)

    def push(self) -> None:
        """Send what is in the outbox; each file appears at the remote place whole.

        Raises:
            StoreError: a shard could not be sent; it stays in the outbox.
        """
        if self._files is None:
            return
        for name in _local_names(self.outbox, SUFFIX):
            try:
                partial = f"{self._remote}/{uuid.uuid4().hex}{PARTIAL}"
                self._files.makedirs(self._remote, exist_ok=True)
                self._files.put_file(str(self.outbox / name), partial)
                self._files.mv(partial, f"{self._remote}/{name}")
            except Exception as error:  # every file system raises its own
                raise StoreError(
                    f"shard {name!r} could not be sent to {self.place!r} ({_told(error)}); it is kept in "
                    f"{str(self.outbox)!r}, and the next `prefopt precompute` sends it"
                ) from error
            os.replace(self.outbox / name, self.folder / name)

    def remove(self, path: Path, *, damaged: bool = False) -> None:
        """Delete a file, here and at the remote place.

        Args:
            path: a shard or a half-written file.
            damaged: the local copy is; where the remote file is whole, it is copied anew instead.

        Raises:
            StoreError: it cannot be deleted.
        """
        try:
            path.unlink(missing_ok=True)
            if self._files is not None and path.name in self._there():
                if damaged:
                    self._get(path.name)
                    if file_digest(path) == path.stem:
                        return
                    path.unlink()
                self._files.rm_file(f"{self._remote}/{path.name}")
        except StoreError:
            raise
        except Exception as error:  # every file system raises its own
            raise StoreError(f"{str(path)!r} cannot be deleted: {_told(error)}") from error

    def check_writable(self) -> None:
        """Make the folders and refuse ones that take no file; send what could not be sent before.

        Raises:
            StoreError: a place cannot be written.
        """
        trial = self.outbox / f"{uuid.uuid4().hex}{PARTIAL}"
        try:
            make_folder(self.outbox)
            trial.touch()
            trial.unlink()
        except OSError as error:
            raise cannot_write(self.outbox, error) from error
        if self._files is None:
            return
        try:
            self._files.makedirs(self._remote, exist_ok=True)
            self._files.pipe_file(f"{self._remote}/{trial.name}", b"")
            self._files.rm_file(f"{self._remote}/{trial.name}")
        except Exception as error:  # every file system raises its own
            raise StoreError(f"the log-prob store {self.place!r} cannot be written: {_told(error)}") from error
        self.push()

    def _there(self) -> list[str]:
        """The names of the shards at the remote place."""
        return [name for name in _listed(self._files, self._remote, self.place) if name.endswith(SUFFIX)]

    def _get(self, name: str) -> None:
        """Copy a shard, which is checked when it is opened and read; its age is that of the remote file."""
        remote, partial = f"{self._remote}/{name}", self.folder / f"{uuid.uuid4().hex}{PARTIAL}"
        try:
            make_folder(self.folder)
            self._files.get_file(remote, str(partial))
            with suppress(Exception):  # not every file system knows
                written = self._files.modified(remote).timestamp()
                os.utime(partial, (written, written))
            os.replace(partial, self.folder / name)
        except Exception as error:  # every file system raises its own
            raise StoreError(f"shard {name!r} of {self.place!r} cannot be read: {_told(error)}") from error


def _local(cache_dir: str) -> Path:
    return Path(cache_dir.removeprefix("file://").removeprefix("local://")).expanduser()


def _local_names(folder: Path, suffix: str = "") -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(suffix))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(
            f"the log-prob store in {str(folder)!r} cannot be read ({error.strerror}); name another "
            "reference.cache_dir, or make it a folder that can be read"
        ) from error


def _connected(cache_dir: str) -> tuple[Any, str]:
    """A file system and the store's folder in it."""
    try:
        files, root = fsspec.core.url_to_fs(cache_dir)
    except Exception as error:  # unknown protocols, missing libraries, missing credentials
        raise StoreError(f"reference.cache_dir {cache_dir!r} cannot be opened: {_told(error)}") from error
    return files, root.rstrip("/")


def _listed(files: Any, folder: str, place: str) -> list[str]:
    """The names in a remote folder; none where there is no such folder."""
    try:
        files.invalidate_cache()
        return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in files.ls(folder, detail=False))
    except FileNotFoundError:
        return []
    except Exception as error:  # every file system raises its own
        raise StoreError(f"the log-prob store {place!r} cannot be read: {_told(error)}") from error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
