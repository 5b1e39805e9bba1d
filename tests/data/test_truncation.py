from hypothesis import given
from hypothesis import strategies as st

from prefopt.data.row import Completion
from prefopt.data.truncation import cut, truncate


def completion(length):
    return Completion(tuple(range(length)), (True,) * length)


def test_the_prompt_loses_its_left():
    prompt, completions = truncate((1, 2, 3, 4), (completion(2), completion(3)), 5)
    assert prompt == (3, 4)
    assert [len(c.ids) for c in completions] == [2, 3]


def test_then_completions_lose_their_end_and_one_prompt_token_stays():
    prompt, completions = truncate((1, 2, 3, 4), (completion(2), completion(9)), 5)
    assert prompt == (4,)
    assert [c.ids for c in completions] == [(0, 1), (0, 1, 2, 3)]
    assert [len(c.scored) for c in completions] == [2, 4]


def test_what_fits_exactly_is_left_alone():
    assert truncate((1, 2), (completion(3),), 5) == ((1, 2), (completion(3),))


def test_cut_keeps_the_score():
    assert cut(Completion((1, 2), (True, False), 0.5), 1) == Completion((1,), (True,), 0.5)


@given(st.integers(1, 20), st.lists(st.integers(1, 20), min_size=1), st.integers(2, 30))
def test_every_row_fits_and_nothing_is_cut_without_need(prompt_length, lengths, max_length):
    whole = tuple(range(prompt_length))
    prompt, completions = truncate(whole, tuple(map(completion, lengths)), max_length)
    longest = max(len(c.ids) for c in completions)
    assert prompt
    assert all(c.ids for c in completions)
    assert len(prompt) + longest == min(max_length, prompt_length + max(lengths))
    assert prompt == whole or len(prompt) == 1 or longest == max(lengths)
    assert prompt == whole[-len(prompt) :]
