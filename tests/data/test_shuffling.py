from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from prefopt.data.shuffling import shuffled


@given(st.integers(0, 60), st.integers(1, 70))
def test_every_row_comes_once_and_none_before_the_buffer_reaches_it(count, size):
    order = list(shuffled(range(count), size, "seed"))
    assert sorted(order) == list(range(count))
    assert all(row < place + size for place, row in enumerate(order))


def test_the_seed_draws_the_order():
    orders = {seed: tuple(shuffled(range(50), 10, seed)) for seed in ("1 0", "1 1", "2 0")}
    assert len(set(orders.values())) == 3
    assert tuple(shuffled(range(50), 10, "1 0")) == orders["1 0"]


def test_a_buffer_of_one_leaves_the_order():
    assert list(shuffled(range(9), 1, "seed")) == list(range(9))


def test_a_buffer_that_holds_all_draws_every_order_alike():
    drawn = Counter(tuple(shuffled(range(3), 5, str(seed))) for seed in range(6_000))
    assert len(drawn) == 6
    assert chisquare(list(drawn.values())).pvalue > 1e-3


def test_it_reads_no_further_than_the_buffer():
    seen = []

    def rows():
        for number in range(1_000):
            seen.append(number)
            yield number

    next(shuffled(rows(), 10, "seed"))
    assert len(seen) == 11
