"""Digests of the weights in a file, remembered per file so that a second start reads none of them."""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from prefopt.errors import ModelError
from prefopt.reference.disk import file_digest, local_cache

# A file written a moment ago may be written again without its times showing it; it is read anew the next time.
_SETTLED_SECONDS = 2.0
_FORMAT = 1


def tensor_digests(file: Path) -> list[str]:
    """For each tensor its name, dtype, shape and the sha256 of its bytes, with one tensor in memory at a time.

    A file that is no safetensors file (GGUF, or torch's own format, which is not opened here) counts as one tensor.

    Args:
        file: weights of a model or of an adapter; a link to them, as in the Hub's cache, has the name that counts.

    Raises:
        ModelError: the file is damaged.
    """
    before = _state(file)
    memory = local_cache() / "weights" / f"{before}.json"
    remembered = _recall(memory)
    if remembered is not None:
        return remembered
    found = _read(file)
    # Only what stood still all the while, and for some time before, may be told by its times again.
    if _state(file) == before and time.time() - _last_change(file) > _SETTLED_SECONDS:
        _remember(memory, found)
    return found


def combined(tensors: Iterable[str]) -> str:
    """One digest of all tensors, whichever files they lie in."""
    return hashlib.sha256(json.dumps(sorted(tensors)).encode()).hexdigest()


def _read(file: Path) -> list[str]:
    if file.suffix != ".safetensors":
        return [f"{file.suffix} {file_digest(file)}"]
    found = []
    try:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():
                piece = tensors.get_slice(name)
                values = tensors.get_tensor(name).contiguous().reshape(-1).view(torch.uint8).numpy()
                digest = hashlib.sha256(values.data).hexdigest()
                found.append(f"{name} {piece.get_dtype()} {list(piece.get_shape())} {digest}")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"weights {str(file)!r} cannot be read: {error}; they are damaged or incomplete") from error
    return found


def _state(file: Path) -> str:
    """What changes whenever a file does: size, times and inode."""
    seen = file.stat()
    told = [_FORMAT, file.suffix, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino, seen.st_dev]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _last_change(file: Path) -> float:
    seen = file.stat()
    return max(seen.st_mtime, seen.st_ctime)


def _recall(memory: Path) -> list[str] | None:
    with suppress(OSError, ValueError, LookupError, TypeError):
        found = json.loads(memory.read_text(encoding="utf-8"))
        if found["check"] == combined(found["tensors"]):
            return list(found["tensors"])
    return None


def _remember(memory: Path, found: list[str]) -> None:
    partial = memory.with_name(f"{uuid.uuid4().hex}.partial")
    with suppress(OSError):  # memory saves time alone: the next start reads the weights again
        memory.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"check": combined(found), "tensors": found}), encoding="utf-8")
        os.replace(partial, memory)
