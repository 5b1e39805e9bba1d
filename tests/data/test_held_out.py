from __future__ import annotations

import pytest

from prefopt.data.held_out import hold_out
from prefopt.data.row import Completion, Row
from prefopt.errors import DataError

ROWS = [Row("demonstrations", "x", number, (number,), (Completion((1,), (True,)),)) for number in range(1, 101)]


def test_every_row_is_on_one_side_in_file_order():
    train, held_out = hold_out(ROWS, 20)
    assert len(held_out) == 20
    assert sorted([*train, *held_out], key=lambda row: row.number) == ROWS
    assert [row.number for row in train] == sorted(row.number for row in train)


def test_the_choice_is_fixed_and_spread_over_the_file():
    assert [list(part) for part in hold_out(ROWS, 20)] == [list(part) for part in hold_out(ROWS, 20)]
    numbers = [row.number for row in hold_out(ROWS, 20)[1]]
    assert min(numbers) < 25
    assert max(numbers) > 75


def test_a_dropped_row_changes_the_choice_by_one_row_at_most():
    numbers = {row.number for row in hold_out(ROWS, 20)[1]}
    fewer = {row.number for row in hold_out([row for row in ROWS if row.number != min(numbers)], 20)[1]}
    assert len(numbers - fewer) == 1


def test_a_row_must_be_left_to_train_on():
    with pytest.raises(DataError, match="every one of the 100 rows"):
        hold_out(ROWS, 100)
