"""A random order of rows that takes no memory: the place of each is computed."""

from __future__ import annotations

import hashlib

_ROUNDS = 8
_MASK = 2**64 - 1


class Permutation:
    """Every index below a number once, in an order drawn by a key.

    A Feistel network over the smallest square of a power of two that holds them all; what falls outside is put through
    again until it falls inside.

    >>> sorted(Permutation(5, 7)[index] for index in range(5))
    [0, 1, 2, 3, 4]

    Source:
        Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002, https://eprint.iacr.org/2001/012
        (cycle walking and the generalised Feistel construction).
    """

    def __init__(self, count: int, *key: int) -> None:
        """Draw an order.

        Args:
            count: How many indices, >= 1.
            key: Numbers that name the order.
        """
        self._count = count
        self._half_bits = max(1, ((count - 1).bit_length() + 1) // 2)
        seed = hashlib.shake_256(repr(key).encode()).digest(8 * _ROUNDS)
        self._keys = [int.from_bytes(seed[start : start + 8], "little") for start in range(0, len(seed), 8)]

    def __getitem__(self, index: int) -> int:
        """What stands at `index`."""
        assert 0 <= index < self._count
        bits = self._half_bits
        mask = (1 << bits) - 1
        while True:
            left, right = index >> bits, index & mask
            for key in self._keys:
                left, right = right, left ^ (_mixed(right ^ key) & mask)
            index = left << bits | right
            if index < self._count:
                return index


def _mixed(value: int) -> int:
    """The finaliser of splitmix64: every bit of the result depends on every bit of the value."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31
