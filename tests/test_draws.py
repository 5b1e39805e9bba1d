"""Random numbers go with the row: with its id, the seed, the step and the stream, and with nothing else."""

import itertools
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from prefopt import Draws

DRAWS = Draws((5, 6, 7), seed=2, step=3)
COUNTS = (4, 2, 3)


def by_row(draws, counts=COUNTS, **options):
    return [tuple(row.tolist()) for row in draws.uniform(counts, **options).split(list(counts))]


def test_numbers_are_uniform_float64_in_0_to_1():
    numbers = Draws(tuple(range(500))).uniform([20] * 500)
    assert numbers.dtype == torch.float64
    assert numbers.shape == (10_000,)
    assert 0 <= numbers.min()
    assert numbers.max() < 1
    shares = numbers.histc(10, min=0, max=1) / 10_000
    assert shares.tolist() == pytest.approx([0.1] * 10, abs=4 * (0.1 * 0.9 / 10_000) ** 0.5)


def test_same_key_draws_the_same_numbers_again():
    assert DRAWS.uniform(COUNTS).equal(Draws((5, 6, 7), seed=2, step=3).uniform(COUNTS))


def test_numbers_do_not_depend_on_the_place_of_a_row():
    rows = by_row(DRAWS)
    turned = by_row(replace(DRAWS, row_ids=(7, 5, 6)), counts=(3, 4, 2))
    assert turned == [rows[2], rows[0], rows[1]]


@pytest.mark.parametrize("row", [0, 1, 2])
def test_numbers_do_not_depend_on_the_company_of_a_row(row):
    alone = replace(DRAWS, row_ids=DRAWS.row_ids[row : row + 1])
    assert by_row(alone, counts=COUNTS[row : row + 1]) == [by_row(DRAWS)[row]]


def test_row_that_comes_twice_draws_the_same_numbers():
    first, second = by_row(Draws((5, 5)), counts=(4, 4))
    assert first == second


def test_row_that_draws_more_begins_with_the_same_numbers():
    (few,), (many,) = by_row(Draws((5,)), counts=(2,)), by_row(Draws((5,)), counts=(6,))
    assert many[:2] == few


@pytest.mark.parametrize("changed", [{"seed": 3}, {"step": 4}, {"row_ids": (8, 9, 10)}])
def test_another_seed_step_or_row_id_draws_other_numbers(changed):
    other = replace(DRAWS, **changed)
    assert not set(DRAWS.uniform(COUNTS).tolist()) & set(other.uniform(COUNTS).tolist())


def test_another_stream_draws_other_numbers():
    assert not set(DRAWS.uniform(COUNTS, stream=0).tolist()) & set(DRAWS.uniform(COUNTS, stream=1).tolist())
    assert DRAWS.uniform(COUNTS).equal(DRAWS.uniform(COUNTS, stream=0))


def test_parts_of_the_key_are_not_interchangeable():
    """A key made by adding its parts up would give some of these the same numbers."""
    keys = list(itertools.product((0, 1), repeat=4))
    first = {Draws((row_id,), seed, step).uniform([1], stream=stream).item() for seed, step, row_id, stream in keys}
    assert len(first) == len(keys)


def test_row_may_draw_nothing():
    rows = by_row(DRAWS, counts=(4, 0, 3))
    assert rows == [by_row(DRAWS)[0], (), by_row(DRAWS)[2]]
    assert Draws(()).uniform([]).shape == (0,)


@pytest.mark.parametrize("counts", [(4, 2), (4, 2, 3, 1)])
def test_counts_for_another_number_of_rows_are_refused(counts):
    with pytest.raises(ValueError, match="draws for 3 rows were asked for . counts"):
        DRAWS.uniform(counts)


def test_draws_leave_the_global_generators_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    DRAWS.uniform(COUNTS)
    assert torch.get_rng_state().equal(before)


def test_draws_are_frozen():
    with pytest.raises(FrozenInstanceError):
        DRAWS.seed = 1
