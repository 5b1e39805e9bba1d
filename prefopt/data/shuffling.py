"""A stream in another order, as far as a buffer reaches."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def shuffled(rows: Iterable[T], size: int, seed: str) -> Iterator[T]:
    """Holds `size` rows, and gives a random one of them whenever another comes; at the end the rest, shuffled.

    Args:
        rows: Read `size` ahead.
        size: At least 1, which leaves the order as it is.
        seed: Draws the order.

    >>> sorted(shuffled(range(5), 3, "seed"))
    [0, 1, 2, 3, 4]
    """
    draw = random.Random(seed)
    held: list[T] = []
    for row in rows:
        if len(held) < size:
            held.append(row)
            continue
        place = draw.randrange(size)
        chosen, held[place] = held[place], row
        yield chosen
    draw.shuffle(held)
    yield from held
