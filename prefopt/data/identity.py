"""What tokenised rows follow from: digests of a tokenizer, of this room's code and of the settings."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def rows_key(source_digest: str, tokenizer: PreTrainedTokenizerBase, *, max_length: int, on_bad_row: str) -> str:
    """Hexadecimal digest of all that the tokenised rows of a source depend on.

    Args:
        source_digest: That of the source's content.
        tokenizer: The policy's.
        max_length: As `load_rows`.
        on_bad_row: As `load_rows`.
    """
    told = {
        "source": source_digest,
        "tokenizer": tokenizer_digest(tokenizer),
        "max_length": max_length,
        "on_bad_row": on_bad_row,
        "code": _code_digest(),
        "libraries": {name: version(name) for name in ("transformers", "tokenizers")},
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hexadecimal sha256 of the files a tokenizer is saved as, its template among them, and of its class.

    A template that asks for the date is another one every day.
    """
    digest = hashlib.sha256(type(tokenizer).__qualname__.encode())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            content = file.read_bytes()
            digest.update(f"{file.name} {len(content)} ".encode() + content)
            if b"strftime_now" in content:
                digest.update(date.today().isoformat().encode())
    return digest.hexdigest()


@functools.cache
def _code_digest() -> str:
    """Of every file of this room: rows that other code made are never taken for what this code would make."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
