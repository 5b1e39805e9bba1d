from __future__ import annotations

from collections import Counter
from itertools import pairwise, permutations

from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from prefopt.data.permutation import Permutation


@given(st.integers(1, 600), st.integers(0, 2**32))
def test_every_index_stands_there_once(count, key):
    order = Permutation(count, key)
    assert sorted(order[index] for index in range(count)) == list(range(count))


def test_every_order_of_four_is_as_likely_as_any_other():
    drawn = Counter(tuple(Permutation(4, key)[index] for index in range(4)) for key in range(6_000))
    assert len(drawn) == 24
    assert chisquare([drawn[order] for order in permutations(range(4))]).pvalue > 1e-3


def test_neighbours_are_torn_apart_in_a_long_one():
    order = Permutation(10**8, 1, 2)
    places = [order[index] for index in range(2_000)]
    assert chisquare(list(Counter(place // 10**7 for place in places).values())).pvalue > 1e-3
    steps = Counter((later > earlier) for earlier, later in pairwise(places))
    assert abs(steps[True] - 1_000) < 4 * (2_000 / 12) ** 0.5  # the number of rises has variance n / 12


def test_every_part_of_the_key_counts():
    orders = {tuple(Permutation(50, *key)[index] for index in range(50)) for key in ((1, 2), (2, 1), (12,), (1, 2, 0))}
    assert len(orders) == 4
