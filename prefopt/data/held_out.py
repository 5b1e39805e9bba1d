"""Setting rows aside for evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from prefopt.data.row import Row
from prefopt.errors import DataError


def hold_out(rows: Sequence[Row], num_rows: int) -> tuple[list[Row], list[Row]]:
    """Split rows into those that train and `num_rows` that do not.

    Rows are chosen by a digest of their number in the file, free of any seed of the run, so that runs which differ in
    loss, seed, tokenizer or skipped rows are evaluated on the same rows. Both parts keep the order of the file.

    Raises:
        DataError: no row would be left to train on.
    """
    if num_rows >= len(rows):
        raise DataError(f"data.evaluation = {num_rows} would hold out every one of the {len(rows)} rows of data.train")
    chosen = {row.number for row in sorted(rows, key=lambda row: _digest(row.number))[:num_rows]}
    train = [row for row in rows if row.number not in chosen]
    return train, [row for row in rows if row.number in chosen]


def _digest(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()
