from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prefopt.data.row import Completion, Row
from prefopt.data.views import Joined, Without

ROWS = [Row("demonstrations", "x", number, (number,), (Completion((1,), (True,)),)) for number in range(12)]


@given(st.lists(st.integers(0, 4), max_size=5))
def test_joined_is_the_sum_of_the_parts(sizes):
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    parts = [ROWS[start : start + size] for start, size in zip(starts, sizes, strict=True) if start + size <= 12]
    assert list(Joined(parts)) == [row for part in parts for row in part]


@given(st.sets(st.integers(0, 11)))
def test_without_leaves_out_the_places(places):
    left = Without(ROWS, sorted(places))
    assert list(left) == [row for place, row in enumerate(ROWS) if place not in places]
    assert len(left) == 12 - len(places)


def test_indices_and_slices_are_those_of_a_list():
    view = Joined([ROWS[:5], ROWS[5:]])
    assert view[-1] == ROWS[-1]
    assert view[2:9:3] == ROWS[2:9:3]
    assert view[:0] == []
