"""Random entries, and a store that holds them."""

from __future__ import annotations

import random

import numpy as np

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
