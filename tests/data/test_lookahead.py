from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefopt.data import lookahead
from prefopt.data.lookahead import with_mismatched
from prefopt.data.mismatch import add_mismatched
from prefopt.data.row import Completion, Row
from prefopt.errors import DataError


def row(number, prompt, scored=True):
    """A completion of two tokens, of which the first one is scored or not."""
    return Row("labels", "x", number, (prompt,) * (1 + prompt % 3), (Completion((number, 0), (scored, True)),))


ROWS = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=2, max_size=30).map(
    lambda drawn: [row(number, *own) for number, own in enumerate(drawn, 1)]
)


def whole(rows, max_length):
    try:
        return add_mismatched(rows, max_length=max_length)
    except DataError:
        return [], None


@given(ROWS, st.integers(2, 6))
def test_a_stream_gets_what_the_whole_data_would_give(rows, max_length):
    expected, num_alike = whole(rows, max_length)
    if num_alike is None:
        with pytest.raises(DataError, match="keeps a scored token behind its prompt"):
            list(with_mismatched(rows, max_length=max_length))
        return
    alike = []
    assert list(with_mismatched(rows, max_length=max_length, alike=alike.append)) == list(expected)
    assert len(alike) == num_alike


def test_it_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(lookahead, "NUM_AHEAD", 10)
    seen = []

    def endless():
        number = 0
        while True:
            number += 1
            seen.append(number)
            yield row(number, 1)

    first = next(with_mismatched(endless(), max_length=9))
    assert first.mismatched[0].ids == (2, 0)
    assert len(seen) == 11


def test_a_row_is_given_away_as_soon_as_its_partner_comes():
    rows = with_mismatched(iter([row(1, 1), row(2, 2), row(3, 3)]), max_length=9)
    assert next(rows).mismatched[0].ids == (2, 0)


def test_a_single_row_has_no_mismatch():
    with pytest.raises(DataError, match="x row 1 is alone"):
        list(with_mismatched([row(1, 1)], max_length=9))
