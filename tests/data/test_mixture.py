from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from prefopt.config import PartConfig
from prefopt.data.mixture import Part, epoch_length, interleaved, parts_of, shared_out


def test_one_source_is_one_part():
    assert parts_of("a.jsonl") == [Part("train", "a.jsonl", 1.0)]
    assert parts_of((PartConfig(source="a.jsonl", weight=3.0),)) == [Part("train", "a.jsonl", 1.0)]
    rows = ({"prompt": "a"}, {"prompt": "b"})
    assert parts_of(rows) == [Part("train", rows, 1.0)]


def test_weights_become_shares():
    parts = parts_of((PartConfig(source="a", weight=3.0), PartConfig(source="b")))
    assert parts == [Part("train.0", "a", 0.75), Part("train.1", "b", 0.25)]


@given(st.lists(st.tuples(st.integers(1, 10**9), st.integers(1, 99)), min_size=1, max_size=5))
def test_the_length_of_an_epoch_is_that_of_exact_arithmetic(sources):
    counts, weights = zip(*sources, strict=True)
    lasts = [Fraction(count * sum(weights), weight) for count, weight in sources]
    shares = [weight / sum(weights) for weight in weights]
    assert epoch_length(counts, shares, "first") == pytest.approx(max(1, math.floor(min(lasts))), abs=0, rel=1e-15)
    assert epoch_length(counts, shares, "all") == pytest.approx(math.ceil(max(lasts)), abs=0, rel=1e-15)


@given(st.integers(0, 1000), st.lists(st.integers(1, 99), min_size=1, max_size=6))
def test_rows_are_shared_out_without_a_rest_and_to_less_than_one(count, weights):
    shares = [weight / sum(weights) for weight in weights]
    out = shared_out(count, shares)
    assert sum(out) == count
    assert all(abs(own - count * share) < 1 + 1e-6 for own, share in zip(out, shares, strict=True))


def numbered(name, count):
    return lambda: iter([(name, number) for number in range(count)])


def test_each_source_keeps_its_order_and_the_epoch_ends_with_the_first():
    rows = list(interleaved([numbered("a", 50), numbered("b", 500)], [0.5, 0.5], "first", "seed"))
    by_source = {name: [number for own, number in rows if own == name] for name in "ab"}
    assert by_source["a"] == list(range(50))
    assert by_source["b"] == list(range(len(by_source["b"])))
    assert len(by_source["b"]) < 100


def test_all_ends_when_every_source_has_ended_and_shorter_ones_begin_again():
    rows = list(interleaved([numbered("a", 7), numbered("b", 100)], [0.5, 0.5], "all", "seed"))
    by_source = {name: [number for own, number in rows if own == name] for name in "ab"}
    assert by_source["b"] == list(range(100))
    assert by_source["a"] == [place % 7 for place in range(len(by_source["a"]))]


def test_sources_are_drawn_by_their_shares():
    rows = interleaved([numbered("a", 10**5), numbered("b", 10**5)], [0.7, 0.3], "first", "seed")
    drawn = Counter(name for (name, _), _ in zip(rows, range(20_000), strict=False))
    assert binomtest(drawn["a"], 20_000, 0.7).pvalue > 1e-3


def test_the_seed_draws_the_sources():
    orders = [list(interleaved([numbered("a", 40), numbered("b", 40)], [1, 1], "first", seed)) for seed in "112"]
    assert orders[0] == orders[1] != orders[2]
