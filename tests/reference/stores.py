"""Random entries, a store that holds them, and damage."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa

from prefopt.reference.shard import Entry
from prefopt.reference.store import Store

IDENTITY = "ab" * 32
MADE_BY = {"name": "tiny", "dtype": "float32", "weights": "w", "config": "c", "torch": "2"}


def entries(count, *, seed=0, length=None):
    draw = random.Random(seed)
    return [
        Entry(draw.randbytes(16), np.array([-draw.random() for _ in range(length or draw.randint(1, 9))], np.float32))
        for _ in range(count)
    ]


def filled(place, *parts, identity=IDENTITY, made_by=MADE_BY):
    store = Store(str(place), identity)
    store.check_writable()
    for part in parts:
        store.add(part, made_by)
    return store


def flip_last_value(path):
    """Change a bit of the last log-prob of a shard; its index stays whole."""
    values = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0).column("logps").values
    whole = bytearray(path.read_bytes())
    place = whole.rindex(np.asarray(values)[-1:].tobytes(), 0, whole.rindex(b"ARROW1"))
    whole[place] ^= 1
    path.write_bytes(whole)
