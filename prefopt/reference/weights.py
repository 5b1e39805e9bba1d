"""Digests of the weights in a file, remembered per file so that a second start reads none of them."""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from prefopt.reference.mirror import local_cache
from prefopt.reference.shard import file_digest

# A file written a moment ago may be written again without its times showing it; it is read anew the next time.
_SETTLED_SECONDS = 2.0


def tensor_digests(file: Path) -> dict[str, str]:
    """Name of each tensor -> dtype, shape and sha256 of its bytes, one tensor in memory at a time.

    A file that is no safetensors file (GGUF, or torch's own format, which is not opened here) counts as one tensor.

    Args:
        file: weights of a model or of an adapter.
    """
    file = file.resolve()
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


def combined(tensors: Mapping[str, str]) -> str:
    """One digest of all tensors, whichever files they lie in."""
    return hashlib.sha256(json.dumps(sorted(tensors.items())).encode()).hexdigest()


def _read(file: Path) -> dict[str, str]:
    if file.suffix != ".safetensors":
        return {file.suffix: file_digest(file)}
    found = {}
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():
            piece = tensors.get_slice(name)
            values = tensors.get_tensor(name).contiguous().reshape(-1).view(torch.uint8).numpy()
            digest = hashlib.sha256(values.data).hexdigest()
            found[name] = f"{piece.get_dtype()} {list(piece.get_shape())} {digest}"
    return found


def _state(file: Path) -> str:
    """What changes whenever a file does: size, times and inode."""
    seen = file.stat()
    told = [seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino, seen.st_dev]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _last_change(file: Path) -> float:
    seen = file.stat()
    return max(seen.st_mtime, seen.st_ctime)


def _recall(memory: Path) -> dict[str, str] | None:
    try:
        found: Any = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if isinstance(found, dict) and found.get("check") == combined(found.get("tensors", {})):
        return dict(found["tensors"])
    return None


def _remember(memory: Path, found: Mapping[str, str]) -> None:
    partial = memory.with_name(f"{uuid.uuid4().hex}.partial")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"check": combined(found), "tensors": found}), encoding="utf-8")
        os.replace(partial, memory)
    except OSError:
        pass  # memory saves time alone: the next start reads the weights again
