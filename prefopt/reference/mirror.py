"""Where the shards of a reference lie: a local folder itself, or any other place fsspec knows, through a local copy."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from pathlib import Path
from typing import Any

import fsspec

from prefopt.errors import StoreError
from prefopt.reference.shard import PARTIAL, SUFFIX, cannot_write


def local_cache() -> Path:
    """The user's own cache folder for prefopt: `$XDG_CACHE_HOME/prefopt`, by default `~/.cache/prefopt`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prefopt"


def default_cache_dir() -> str:
    """Where reference log-probs are stored unless a config says otherwise."""
    return str(local_cache() / "references")


def is_remote(cache_dir: str) -> bool:
    """Whether a place is no local folder: a URL such as `s3://bucket/logps` or `memory://logps`."""
    return "://" in cache_dir and not cache_dir.startswith(("file://", "local://"))


class Mirror:
    """The local folder of one reference's shards, and the exchange of whole shards with a remote place."""

    def __init__(self, cache_dir: str, identity: str) -> None:
        """Name the places; nothing is read or made yet.

        Args:
            cache_dir: a folder, or a URL that fsspec knows.
            identity: digest of the reference.

        Raises:
            StoreError: fsspec does not know the URL's protocol, or a library for it is not installed.
        """
        self.place = cache_dir
        self._files: Any = None
        if not is_remote(cache_dir):
            root = Path(cache_dir.removeprefix("file://").removeprefix("local://")).expanduser()
            self.folder = root / identity
            return
        try:
            self._files, root = fsspec.core.url_to_fs(cache_dir)
        except (ValueError, ImportError) as error:
            raise StoreError(f"reference.cache_dir {cache_dir!r} cannot be opened: {error}") from error
        self._remote = f"{root.rstrip('/')}/{identity}"
        url = hashlib.sha256(cache_dir.rstrip("/").encode()).hexdigest()[:16]
        self.folder = local_cache() / "mirrors" / url / identity

    def fetch(self) -> None:
        """Copy what the remote place has and the local folder lacks; each shard is checked when it is opened and read.

        Raises:
            StoreError: the place cannot be reached.
        """
        if self._files is None:
            return
        try:
            for name in self._there():
                final = self.folder / name
                if not final.exists():
                    self.folder.mkdir(parents=True, exist_ok=True)
                    partial = self.folder / f"{uuid.uuid4().hex}{PARTIAL}"
                    self._files.get_file(f"{self._remote}/{name}", str(partial))
                    os.replace(partial, final)
        except Exception as error:  # every file system raises its own
            raise StoreError(f"the log-prob store {self.place!r} cannot be read: {_told(error)}") from error

    def push(self, path: Path) -> None:
        """Copy a finished file to the remote place, where it appears whole.

        Raises:
            StoreError: it could not be sent; it is kept locally, and sent with the next one.
        """
        if self._files is None:
            return
        try:
            self._files.makedirs(self._remote, exist_ok=True)
            there = set(self._there())
            for own in sorted(self.folder.glob(f"*{SUFFIX}")):
                if own.name not in there:
                    partial = f"{self._remote}/{uuid.uuid4().hex}{PARTIAL}"
                    self._files.put_file(str(own), partial)
                    self._files.mv(partial, f"{self._remote}/{own.name}")
        except Exception as error:  # every file system raises its own
            raise StoreError(
                f"shard {str(path)!r} could not be sent to {self.place!r}: {_told(error)}; it is kept, and sent with "
                "the next one"
            ) from error

    def remove(self, path: Path) -> None:
        """Delete a file, locally and at the remote place.

        Raises:
            StoreError: it cannot be deleted.
        """
        try:
            if self._files is not None and path.name in self._there():
                self._files.rm_file(f"{self._remote}/{path.name}")
            path.unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()
        except Exception as error:  # every file system raises its own
            raise StoreError(f"{str(path)!r} cannot be deleted: {_told(error)}") from error

    def check_writable(self) -> None:
        """Make the local folder, and refuse one that takes no file.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            trial = self.folder / f"{uuid.uuid4().hex}{PARTIAL}"
            trial.touch()
            trial.unlink()
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    def _there(self) -> list[str]:
        """The names of the shards at the remote place."""
        return [name for name in _listed(self._files, self._remote) if name.endswith(SUFFIX)]


def identities(cache_dir: str) -> list[str]:
    """The references a store holds anything of.

    Raises:
        StoreError: the place cannot be read.
    """
    try:
        files, root = fsspec.core.url_to_fs(os.path.expanduser(cache_dir))
        return sorted(name for name in _listed(files, root.rstrip("/")) if re.fullmatch("[0-9a-f]{64}", name))
    except Exception as error:  # every file system raises its own
        raise StoreError(f"the log-prob store {cache_dir!r} cannot be read: {_told(error)}") from error


def _listed(files: Any, folder: str) -> list[str]:
    files.invalidate_cache()
    return (
        [name.rstrip("/").rsplit("/", 1)[-1] for name in files.ls(folder, detail=False)] if files.exists(folder) else []
    )


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
