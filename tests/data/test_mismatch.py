import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefopt.data.mismatch import add_mismatched
from prefopt.data.row import Completion, Row
from prefopt.errors import DataError


def row(number, prompt, *completions, scored=None):
    return Row(
        kind="pairs" if len(completions) == 2 else "labels",
        source="test",
        number=number,
        prompt=tuple(prompt),
        completions=tuple(Completion(tuple(ids), scored or (True,) * len(ids)) for ids in completions),
    )


def mismatched_ids(rows, max_length=100):
    matched, num_same = add_mismatched(rows, max_length=max_length)
    return [[c.ids for c in r.mismatched] for r in matched], num_same


def test_the_next_row_with_another_prompt_wrapping_round():
    rows = [row(1, [1], [10]), row(2, [1], [20]), row(3, [2], [30]), row(4, [3], [40])]
    assert mismatched_ids(rows) == ([[(30,)], [(30,)], [(40,)], [(10,)]], 0)


def test_a_run_over_the_end_of_the_file_is_passed_over():
    rows = [row(1, [1], [10]), row(2, [2], [20]), row(3, [1], [30])]
    assert mismatched_ids(rows) == ([[(20,)], [(30,)], [(20,)]], 0)


def test_each_side_of_a_pair_gets_the_same_side():
    rows = [row(1, [1], [10], [11]), row(2, [2], [20], [21])]
    assert mismatched_ids(rows) == ([[(20,), (21,)], [(10,), (11,)]], 0)


def test_rows_of_one_prompt_get_the_next_row_and_are_counted():
    rows = [row(1, [1], [10]), row(2, [1], [20]), row(3, [1], [30])]
    assert mismatched_ids(rows) == ([[(20,)], [(30,)], [(10,)]], 3)


def test_the_mismatched_completion_is_cut_never_the_prompt():
    rows = [row(1, [1, 1, 1], [10]), row(2, [2], [20, 21, 22])]
    matched, _ = add_mismatched(rows, max_length=5)
    assert matched[0].prompt == (1, 1, 1)
    assert matched[0].mismatched[0].ids == (20, 21)
    assert matched[0].mismatched[0].scored == (True, True)


def test_a_cut_that_would_leave_nothing_scored_passes_on():
    rows = [
        row(1, [1, 1], [10]),
        row(2, [2], [20, 21], scored=(False, True)),
        row(3, [3], [30, 31]),
    ]
    assert mismatched_ids(rows, max_length=3)[0][0] == [(30,)]


def test_when_no_other_prompt_will_do_the_own_prompt_serves_and_is_counted():
    rows = [
        row(1, [1, 1], [10]),
        row(2, [2], [20, 21], scored=(False, True)),
        row(3, [1, 1], [30]),
    ]
    ids, num_same = mismatched_ids(rows, max_length=3)
    assert (ids[0], ids[2], num_same) == ([(30,)], [(10,)], 2)


def test_a_single_row_has_no_mismatch():
    with pytest.raises(DataError, match="test row 1 is alone"):
        add_mismatched([row(1, [1], [10])], max_length=9)


def test_a_prompt_that_fills_max_length_names_the_row():
    with pytest.raises(DataError, match="test row 1: no completion of another row"):
        add_mismatched([row(1, [1, 1], [10]), row(2, [2], [20])], max_length=2)


def test_thousands_of_rows_of_one_prompt_take_no_time():
    rows = [row(number, [1], [number]) for number in range(20_000)] + [row(0, [2], [5])]
    start = time.perf_counter()
    matched, num_same = add_mismatched(rows, max_length=9)
    assert time.perf_counter() - start < 5
    assert (matched[0].mismatched[0].ids, num_same) == ((5,), 0)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=30))
def test_the_definition_by_brute_force(prompts):
    rows = [row(index, [prompt], [index]) for index, prompt in enumerate(prompts)]
    matched, num_same = add_mismatched(rows, max_length=9)
    for index, this in enumerate(matched):
        following = [(index + step) % len(rows) for step in range(1, len(rows))]
        others = [j for j in following if prompts[j] != prompts[index]]
        assert this.mismatched[0].ids == ((others or following)[0],)
    assert num_same == (len(prompts) if len(set(prompts)) == 1 else 0)
