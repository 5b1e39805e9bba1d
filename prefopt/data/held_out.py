"""Setting rows aside for evaluation."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence

from prefopt.data.cached import numbers_of
from prefopt.data.row import Row
from prefopt.data.views import Without
from prefopt.errors import DataError


def hold_out(rows: Sequence[Row], num_rows: int) -> tuple[Sequence[Row], list[Row]]:
    """Split rows into those that train and `num_rows` that do not.

    Rows are chosen by a digest of their number in the file, free of any seed of the run, so that runs which differ in
    loss, seed, tokenizer or skipped rows are evaluated on the same rows. Both parts keep the order of the file; the
    first one is a view of `rows`.

    Raises:
        DataError: no row would be left to train on.
    """
    if num_rows >= len(rows):
        source = f" of {rows[0].source}" if rows else ""
        raise DataError(
            f"data.evaluation = {num_rows} would hold out every one of the {len(rows)} rows{source or ' of data.train'}"
        )
    numbered = ((_digest(number), place) for place, number in enumerate(numbers_of(rows)))
    places = sorted(place for _, place in heapq.nsmallest(num_rows, numbered))
    return Without(rows, places), [rows[place] for place in places]


def _digest(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()
