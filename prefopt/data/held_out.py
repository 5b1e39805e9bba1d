"""Setting rows aside for evaluation."""

from __future__ import annotations

import random
from collections.abc import Sequence

from prefopt.data.row import Row
from prefopt.errors import DataError


def hold_out(rows: Sequence[Row], num_rows: int) -> tuple[list[Row], list[Row]]:
    """Split rows into those that train and `num_rows` that do not.

    The choice is a fixed shuffle of the rows, free of any seed of the run, so that runs which differ in loss or seed
    are evaluated on the same rows. Both parts keep the order of the file.

    Raises:
        DataError: no row would be left to train on.
    """
    if num_rows >= len(rows):
        raise DataError(f"data.evaluation = {num_rows} would hold out every one of the {len(rows)} rows of data.train")
    chosen = set(random.Random(0).sample(range(len(rows)), num_rows))
    train = [row for index, row in enumerate(rows) if index not in chosen]
    return train, [row for index, row in enumerate(rows) if index in chosen]
