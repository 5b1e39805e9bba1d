from __future__ import annotations

from collections import Counter
from itertools import islice

import datasets
import pytest
from scipy.stats import binomtest

from prefopt.config import TrainingConfig
from prefopt.data.streaming import StreamedSource
from prefopt.errors import DataError
from prefopt.training.streamed import StreamedBatches
from tests.data.tokenizers import tokenizer


def ids(source, count):
    return [{"prompt_ids": [20 + source], "completion_ids": [20 + number % 50, 25]} for number in range(count)]


def streamed(*counts, shares=(1.0,), ends="first", shuffle_buffer=8, check=lambda rows: None, bad=(), **training):
    sources = []
    for source, count in enumerate(counts):
        rows = ids(source, count)
        for place in bad:
            rows.insert(place, {})
        sources.append(StreamedSource(rows, tokenizer("adds_bos"), max_length=8, on_bad_row="skip", mismatched=False))
    settings = TrainingConfig(**{"batch_size": 5, "max_steps": 12} | training)
    return StreamedBatches(sources, shares, ends, settings, shuffle_buffer=shuffle_buffer, check=check)


def drawn(batches, done=0):
    return [[(row.prompt[0] - 20, row.number) for row in batch] for batch in batches.after(done)]


def test_every_row_comes_once_in_an_epoch_and_the_last_short_batch_stays():
    batches = drawn(streamed(22, bad=[3], max_steps=10))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 2] * 2
    epochs = [[number for batch in batches[start : start + 5] for _, number in batch] for start in (0, 5)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == [number for number in range(1, 24) if number != 4]
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("done", [0, 1, 4, 5, 11, 12])
@pytest.mark.parametrize("sources", [{"counts": (22,)}, {"counts": (22, 9), "shares": (0.6, 0.4), "ends": "all"}])
def test_it_goes_on_from_any_step(sources, done):
    settings = dict(sources)
    counts = settings.pop("counts")
    whole = drawn(streamed(*counts, **settings, bad=[2], seed=3))
    assert len(whole) == 12
    assert drawn(streamed(*counts, **settings, bad=[2], seed=3), done) == whole[done:]


def test_rows_come_from_the_sources_by_their_shares():
    batches = drawn(streamed(3000, 3000, shares=(0.7, 0.3), batch_size=8, max_steps=300))
    found = Counter(source for batch in batches for source, _ in batch)
    assert binomtest(found[0], 2400, 0.7).pvalue > 1e-3


def test_the_seed_draws_the_order():
    orders = [drawn(streamed(22, seed=seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_a_buffer_of_one_is_the_order_of_the_source():
    assert [number for batch in drawn(streamed(60, shuffle_buffer=1)) for _, number in batch] == list(range(1, 61))


def test_batches_are_checked_from_the_step_on_that_is_taken():
    seen = []
    assert len(list(streamed(22, check=lambda rows: seen.append(len(rows))).after(9))) == 3
    assert seen == [2, 5, 5]

    def refuse(rows):
        raise DataError("refused")

    with pytest.raises(DataError, match="refused"):
        list(streamed(22, check=refuse).after(0))


def test_an_endless_stream_is_read_as_far_as_its_buffer():
    seen = []

    def endless():
        for number in range(10**9):
            seen.append(number)
            yield ids(0, 1)[0]

    source = StreamedSource(
        datasets.IterableDataset.from_generator(endless), tokenizer("adds_bos"), max_length=8, on_bad_row="error"
    )
    batches = StreamedBatches([source], [1.0], "first", TrainingConfig(batch_size=5, max_steps=99), shuffle_buffer=10)
    assert len(list(islice(batches.after(0), 4))) == 4
    assert len(seen) <= 20 + 10 + 1


def test_the_identity_tells_other_rows_mixtures_and_buffers():
    identities = {
        streamed(22).identity,
        streamed(22, bad=[0]).identity,
        streamed(23).identity,
        streamed(22, shuffle_buffer=9).identity,
        streamed(22, 22, shares=(0.5, 0.5)).identity,
        streamed(22, 22, shares=(0.6, 0.4)).identity,
    }
    assert len(identities) == 5  # a bad row more changes no row
    assert streamed(22, max_steps=40).identity == streamed(22).identity
