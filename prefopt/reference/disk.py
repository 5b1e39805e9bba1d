"""Files that stay: where they go, how a folder is made to last, and what is said when a disk takes no more."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from prefopt.errors import StoreError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def local_cache() -> Path:
    """The user's own cache folder for prefopt: `$XDG_CACHE_HOME/prefopt`, by default `~/.cache/prefopt`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prefopt"


def file_digest(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, to stay even if the power goes."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in the folder survive a power cut; Windows has no such call."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def cannot_write(folder: Path, error: OSError) -> StoreError:
    """The error for a store that took no more."""
    if error.errno in _FULL:
        return StoreError(
            f"no room left for the log-prob store in {str(folder)!r} ({error.strerror}); what was finished before is "
            "kept: make room, or name another reference.cache_dir, and start again"
        )
    return StoreError(
        f"the log-prob store in {str(folder)!r} cannot be written ({error.strerror or error}); make the folder "
        "writable, or name another reference.cache_dir"
    )
