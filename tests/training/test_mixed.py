from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
from scipy.stats import binomtest

from prefopt.config import TrainingConfig
from prefopt.data.row import Completion, Row
from prefopt.training.mixed import MixedBatches


def rows(source, count):
    return [
        Row("demonstrations", source, number, (number,), (Completion((1,), (True,)),)) for number in range(1, count + 1)
    ]


def mixed(*counts, shares=(0.7, 0.3), ends="first", **training):
    parts = [rows(source, count) for source, count in zip("abc", counts, strict=False)]
    return MixedBatches(parts, shares, ends, TrainingConfig(**training))


def names(batches, done=0):
    return [[row.name for row in batch] for batch in batches.after(done)]


@pytest.mark.parametrize(("ends", "length"), [("first", 100), ("all", 286)])
def test_an_epoch_is_as_long_as_the_first_source_lasts_or_as_all_do(ends, length):
    batches = mixed(200, 30, ends=ends, batch_size=16, epochs=2)
    each = -(-length // 16)
    assert batches.num_steps == 2 * each
    sizes = [len(batch) for batch in batches.after(0)]
    assert sizes == ([16] * (each - 1) + [length - 16 * (each - 1)]) * 2


def test_rows_of_every_step_come_from_the_sources_by_their_shares():
    batches = mixed(4000, 4000, batch_size=8, max_steps=600)
    found = [Counter(row.source for row in batch)["a"] for batch in batches.after(0)]
    assert binomtest(sum(found), 4800, 0.7).pvalue > 1e-3
    # and step by step: the variance of a binomial, not of whole batches from one source
    mean = sum(found) / 600
    variance = sum((own - mean) ** 2 for own in found) / 599
    assert variance == pytest.approx(8 * 0.7 * 0.3, rel=4 * (2 / 599) ** 0.5)


@pytest.mark.parametrize("block", [2**16, 20])
def test_a_source_gives_each_row_once_before_it_gives_one_again(monkeypatch, block):
    monkeypatch.setattr("prefopt.training.mixed._BLOCK_DRAWS", block)
    drawn = [row for batch in mixed(200, 30, ends="all", batch_size=7).after(0) for row in batch]
    numbers = [row.number for row in drawn if row.source == "b"]
    assert len(numbers) > 60
    for start in (0, 30):
        assert sorted(numbers[start : start + 30]) == list(range(1, 31))
    assert numbers[:30] != numbers[30:60]


@pytest.mark.parametrize("done", [0, 1, 6, 7, 8, 20])
def test_it_goes_on_from_any_step(done):
    settings = {"batch_size": 16, "epochs": 3, "seed": 5}
    assert names(mixed(200, 30, **settings), done) == names(mixed(200, 30, **settings))[done:]


def test_it_goes_on_in_a_later_block_of_draws(monkeypatch):
    monkeypatch.setattr("prefopt.training.mixed._BLOCK_DRAWS", 20)
    whole = names(mixed(200, 30, batch_size=16, epochs=2))
    assert [names(mixed(200, 30, batch_size=16, epochs=2), done) for done in (2, 5, 9)] == [
        whole[done:] for done in (2, 5, 9)
    ]


def test_seed_and_epoch_draw_another_order():
    first, second = names(mixed(200, 30, batch_size=100, epochs=2))[:2]
    assert first != second
    assert first != names(mixed(200, 30, batch_size=100, seed=1))[0]
    assert first == names(mixed(200, 30, batch_size=100))[0]


def test_no_list_of_all_rows_is_made():
    class Many:
        """10^12 rows."""

        def __len__(self):
            return 10**12

        def __getitem__(self, index):
            return index

    batches = MixedBatches([Many(), Many()], [0.5, 0.5], "first", TrainingConfig(batch_size=4, max_steps=10**9))
    assert len(list(islice(batches.after(5), 3))) == 3


def test_the_identity_tells_other_rows_and_shares():
    identities = {
        mixed(200, 30).identity,
        mixed(200, 31).identity,
        mixed(200, 30, shares=(0.5, 0.5)).identity,
        mixed(200, 30, ends="all").identity,
    }
    assert len(identities) == 4
    assert mixed(200, 30, max_steps=3).identity == mixed(200, 30).identity
