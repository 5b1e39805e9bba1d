from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefopt.data.encoding import SCHEMA, DamagedRowError, Decoder, encode
from prefopt.data.row import Completion, Row

IDS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=6).map(tuple)


@st.composite
def rows(draw):
    scores = draw(st.booleans())
    completions = []
    for ids in draw(st.lists(IDS, min_size=1, max_size=3)):
        scored = draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
        completions.append(Completion(ids, tuple(scored), draw(st.floats(-9, 9)) if scores else None))
    return Row(
        "labels",
        "x",
        draw(st.integers(1, 2**40)),
        draw(IDS),
        tuple(completions),
        desirable=draw(st.sampled_from([None, True, False])),
        weight=draw(st.floats(1e-9, 1e9)),
        undesirable_weight=draw(st.floats(1e-9, 1e9)),
    )


@given(st.lists(rows(), min_size=1, max_size=4))
def test_rows_come_back_as_they_were(written):
    decoder = Decoder(encode(written), "labels", "x")
    assert [decoder.row(index) for index in range(len(written))] == written
    assert decoder.numbers.tolist() == [row.number for row in written]


ROW = Row(
    "pairs",
    "x",
    7,
    (1, 2),
    (Completion((3, 4), (True, True), 0.5), Completion((5,), (True,), 0.25)),
    desirable=True,
)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("number", 8),
        ("lengths", [3, 1, 1]),
        ("ids", [1, 2, 3, 4, 6]),
        ("unscored", [0]),
        ("scores", [0.5, 0.26]),
        ("others", [1.0, 1.0, 0.0]),
        ("check", 1),
    ],
)
def test_a_changed_value_of_any_column_is_damage(column, value):
    columns = encode([ROW]).to_pydict() | {column: [value]}
    with pytest.raises(DamagedRowError, match="does not match its checksum"):
        Decoder(pa.RecordBatch.from_pydict(columns, schema=SCHEMA), "pairs", "x").row(0)
