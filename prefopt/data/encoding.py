"""Rows as columns of an Arrow file, each with a checksum, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from prefopt.data.row import Completion, Row

if TYPE_CHECKING:
    from prefopt.batch import RowKind

SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("lengths", pa.list_(pa.int32())),  # of the prompt and of each completion
        ("ids", pa.list_(pa.int32())),  # of the prompt and of each completion, one after the other
        ("unscored", pa.list_(pa.int32())),  # places among the ids of the completions
        ("scores", pa.list_(pa.float64())),  # one a completion, or none
        ("others", pa.list_(pa.float64())),  # weight, undesirable_weight, and the label where there is one
        ("check", pa.uint64()),
    ]
)
_TYPES = {"lengths": "<i4", "ids": "<i4", "unscored": "<i4", "scores": "<f8", "others": "<f8"}


class DamagedRowError(ValueError):
    """A row is not what was written."""


def encode(rows: Sequence[Row]) -> pa.RecordBatch:
    """Rows without mismatched completions as one batch of `SCHEMA`."""
    parts = [_parts(row) for row in rows]
    columns: dict[str, Any] = {"number": pa.array([row.number for row in rows], pa.int64())}
    for place, (name, dtype) in enumerate(_TYPES.items()):
        arrays = [own[place] for own in parts]
        offsets = np.cumsum([0, *map(len, arrays)], dtype="<i4")
        columns[name] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(arrays).astype(dtype)))
    checks = [_check(row.number, own) for row, own in zip(rows, parts, strict=True)]
    columns["check"] = pa.array(checks, pa.uint64())
    return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


class Decoder:
    """The rows of one batch of `SCHEMA`, each built and checked when it is asked for."""

    def __init__(self, batch: pa.RecordBatch, kind: RowKind, source: str) -> None:
        """Look at the batch.

        Args:
            batch: What `encode` gave.
            kind: That of the rows.
            source: Their source's name.
        """
        self._kind = kind
        self._source = source
        self.numbers: NDArray[np.int64] = batch.column("number").to_numpy()
        self._checks = batch.column("check").to_numpy()
        self._lists = [(batch.column(name).offsets.to_numpy(), batch.column(name).values.to_numpy()) for name in _TYPES]

    def row(self, index: int) -> Row:
        """A row.

        Raises:
            DamagedRowError: It does not match its checksum.
        """
        parts = [values[offsets[index] : offsets[index + 1]] for offsets, values in self._lists]
        number = int(self.numbers[index])
        if _check(number, parts) != self._checks[index]:
            raise DamagedRowError(f"row {number} does not match its checksum")
        lengths, ids, unscored, scores, (weight, undesirable_weight, *label) = (part.tolist() for part in parts)
        start = lengths[0]
        flags = [True] * (len(ids) - start)
        for place in unscored:
            flags[place] = False
        completions = []
        end = start
        for place, length in enumerate(lengths[1:]):
            begin, end = end, end + length
            scored = tuple(flags[begin - start : end - start])
            completions.append(Completion(tuple(ids[begin:end]), scored, scores[place] if scores else None))
        return Row(
            self._kind,
            self._source,
            number,
            tuple(ids[:start]),
            tuple(completions),
            desirable=bool(label[0]) if label else None,
            weight=weight,
            undesirable_weight=undesirable_weight,
        )


def _parts(row: Row) -> list[NDArray[Any]]:
    """The lists of a row, in the order of their columns."""
    assert not row.mismatched
    flags = np.fromiter(chain.from_iterable(own.scored for own in row.completions), dtype=bool)
    scores = [own.score for own in row.completions if own.score is not None]
    assert len(scores) in (0, len(row.completions))
    label = [] if row.desirable is None else [row.desirable]
    lists: list[Any] = [
        [len(row.prompt), *(len(own.ids) for own in row.completions)],
        [*row.prompt, *chain.from_iterable(own.ids for own in row.completions)],
        np.flatnonzero(~flags),
        scores,
        [row.weight, row.undesirable_weight, *label],
    ]
    return [np.asarray(values, dtype=dtype) for values, dtype in zip(lists, _TYPES.values(), strict=True)]


def _check(number: int, parts: Sequence[NDArray[Any]]) -> int:
    digest = hashlib.blake2b(number.to_bytes(8, "little", signed=True), digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part.tobytes())
    return int.from_bytes(digest.digest(), "little")
