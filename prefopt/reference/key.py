"""The key of a completion: everything its reference log-probs depend on, and nothing else."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from prefopt.data.row import Completion

KEY_BYTES = 16


def key(identity: bytes, prompt: Sequence[int], completion: Completion) -> bytes:
    """16 bytes that tell a completion from any other; the loss, the batch, the seed and the order are not in them.

    Args:
        identity: digest of the reference.
        prompt: token ids, after truncation.
        completion: token ids, after truncation, and which of them are scored.
    """
    parts = (
        struct.pack("<2q", len(prompt), len(completion.ids)),
        struct.pack(f"<{len(prompt)}q", *prompt),
        struct.pack(f"<{len(completion.ids)}q", *completion.ids),
        bytes(completion.scored),
    )
    return hashlib.blake2b(b"".join(parts), digest_size=KEY_BYTES, key=identity).digest()
