"""What a process holds of the memory it was given back: glibc's heap, for the large blocks that tensors are."""

from __future__ import annotations

from bisect import bisect_left, insort

_LEAST_THRESHOLD, _LARGEST_THRESHOLD = 2**17, 2**25
_PAD = 2**17
_PAGE = 4096
_ALIGNING = 96  # an aligned block asks for that much more than it takes


class Heap:
    """Blocks in the order in which a program asks for them and gives them back.

    A block goes where the smallest hole holds it, else at the end of the heap; one above a threshold, which grows with
    what was given back, gets pages of its own. Holes inside the heap stay with the process.

    Attributes:
        held: bytes the process holds now.
        peak: the most it held.
    """

    def __init__(self) -> None:
        """An empty heap."""
        self._threshold = _LEAST_THRESHOLD
        self._end = self._break = self._own_pages = 0
        self._by_size: list[tuple[int, int]] = []  # holes as (size, start)
        self._starts: dict[int, int] = {}  # start of a hole -> its end
        self._ends: dict[int, int] = {}  # end of a hole -> its start
        self._blocks: dict[object, tuple[int, int]] = {}  # (start, or -1 for pages of its own; size)
        self.peak = 0

    @property
    def held(self) -> int:
        """Pages of blocks and of holes."""
        return self._break + self._own_pages

    def take(self, name: object, num_bytes: int) -> None:
        """Ask for a block."""
        size = -(-num_bytes // 64) * 64 + 64
        place = bisect_left(self._by_size, (size + _ALIGNING, -1))
        if place < len(self._by_size):
            found, start = self._by_size.pop(place)
            del self._starts[start], self._ends[start + found]
            self._blocks[name] = (start, size)
            if found > size:
                self._hole(start + size, start + found)
        elif self._break - self._end >= size:
            self._blocks[name] = (self._end, size)
            self._end += size
        elif size >= self._threshold:
            size = -(-size // _PAGE) * _PAGE
            self._blocks[name] = (-1, size)
            self._own_pages += size
        else:
            self._blocks[name] = (self._end, size)
            self._end += size
            self._break = -(-(self._end + _PAD) // _PAGE) * _PAGE
        self.peak = max(self.peak, self.held)

    def give_back(self, name: object) -> None:
        """Return a block."""
        start, size = self._blocks.pop(name)
        if start < 0:
            self._own_pages -= size
            if self._threshold < size <= _LARGEST_THRESHOLD:
                self._threshold = size
            return
        end = start + size
        if start in self._ends:
            before = self._ends.pop(start)
            del self._starts[before]
            self._forget(start - before, before)
            start = before
        if end in self._starts:
            after = self._starts.pop(end)
            del self._ends[after]
            self._forget(after - end, end)
            end = after
        if end == self._end:
            self._end = start  # its pages stay: small objects made meanwhile lie above
        else:
            self._hole(start, end)

    def _hole(self, start: int, end: int) -> None:
        insort(self._by_size, (end - start, start))
        self._starts[start], self._ends[end] = end, start

    def _forget(self, size: int, start: int) -> None:
        del self._by_size[bisect_left(self._by_size, (size, start))]
