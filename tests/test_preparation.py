from __future__ import annotations

from collections import Counter
from itertools import islice

import datasets
import pytest

import prefopt
from prefopt.config import parse_config
from prefopt.data.cached import rows_folder
from prefopt.data.held_out import hold_out
from prefopt.data.load import load_rows
from prefopt.data.mismatch import add_mismatched
from prefopt.data.trees import largest_sequence
from prefopt.errors import ConfigError, DataError
from prefopt.precompute import precompute
from prefopt.preparation import check_needs, prepare, stream
from prefopt.training.mixed import MixedBatches
from prefopt.training.streamed import StreamedBatches
from tests.data.tokenizers import tokenizer

DPO, KTO, ODPO = prefopt.get_loss("dpo"), prefopt.get_loss("kto"), prefopt.get_loss("odpo")
WORDS = tokenizer("without_bos", "chatml")


def pairs(name, count):
    return [
        {"prompt": f"{name} {number}:", "chosen": " the sky" * (1 + number % 4), "rejected": " no"}
        for number in range(count)
    ]


def labels(name, count):
    return [
        {"prompt": f"{name} {number // 2}:", "completion": f" sky {number}", "label": number % 3 == 0}
        for number in range(count)
    ]


def config(train="in memory", *, training=(), **data):
    values = {
        "model": "none",
        "data": {"train": train, "max_length": 64, **data},
        "loss": "dpo",
        "training": {"batch_size": 4, "tokens_per_microbatch": 256, **dict(training)},
        "output_dir": "out",
    }
    return parse_config(values)


STEPS = {"max_steps": 8}


@pytest.fixture
def mixture(write_rows):
    def make(rows=pairs):
        return [
            {"source": str(write_rows(rows("first", 40), "a.jsonl")), "weight": 3},
            {"source": str(write_rows(rows("second", 30), "b.jsonl")), "weight": 1},
        ]

    return make


def test_the_rows_stand_on_disk_and_are_those_of_load_rows():
    data = prepare(config(evaluation=5), DPO, WORDS, pairs("a", 40))
    rows, report = load_rows(pairs("a", 40), WORDS, max_length=64)
    train, held_out = hold_out(rows, 5)
    assert [list(data.train), list(data.evaluation)] == [list(train), held_out]
    assert list(data.rows) == [*train, *held_out]
    assert data.reports == {"train": report}
    assert any(rows_folder().iterdir())


def test_telling_rows_are_the_longest_the_fullest_and_the_shortest():
    data = prepare(config(evaluation=5), DPO, WORDS, pairs("a", 40))
    assert largest_sequence(data.telling)[0] == largest_sequence(data.rows)[0]
    sizes = [len(row.prompt) + sum(len(own.ids) for own in row.completions) for row in data.rows]
    found = [len(row.prompt) + sum(len(own.ids) for own in row.completions) for row in data.telling]
    assert (min(found), max(found)) == (min(sizes), max(sizes))
    assert len(data.telling) == 3


def test_leaks_are_counted(write_rows):
    rows = pairs("a", 40)
    held_out = [rows[0], {**rows[1], "chosen": " another"}, {**rows[2], "prompt": "unseen:"}]
    data = prepare(config(evaluation=str(write_rows(held_out))), DPO, WORDS, rows)
    assert data.notes == [
        "1 of 3 held-out rows also stand in the training rows",
        "2 of 3 held-out prompts also stand in the training rows",
    ]


def test_a_mixture_keeps_the_names_the_reports_and_the_shares_of_its_sources(mixture):
    settings = config(mixture(), evaluation=8, training={"epochs": 2})
    data = prepare(settings, DPO, WORDS, settings.data.train)
    first, second = (part.source for part in settings.data.train)
    assert {name: report.source for name, report in data.reports.items()} == {"train.0": first, "train.1": second}
    assert Counter(row.source for row in data.evaluation) == {first: 6, second: 2}
    assert Counter(row.source for row in data.train) == {first: 34, second: 28}
    assert isinstance(data.batches, MixedBatches)
    assert data.batches.num_steps == 2 * 12  # 45 draws use up 34 rows of which three in four are taken
    held_out = {row.name for row in data.evaluation}
    assert not any(row.name in held_out for batch in data.batches.after(0) for row in batch)


def test_mismatched_completions_come_from_the_same_source_whatever_the_seed(mixture):
    settings = config(mixture(labels), evaluation=8)
    data = prepare(settings, KTO, WORDS, settings.data.train)
    for part, aside in zip(settings.data.train, (6, 2), strict=True):
        rows, _ = load_rows(part.source, WORDS, max_length=64)
        kept, _ = add_mismatched(hold_out(rows, aside)[0], max_length=64)
        assert [row for row in data.train if row.source == part.source] == list(kept)
    assert all(row.mismatched for batch in data.batches.after(0) for row in batch)


def test_rows_of_another_kind_than_the_first_source_s_are_an_error_at_once(write_rows):
    parts = [str(write_rows(pairs("a", 3), "a.jsonl")), str(write_rows(labels("b", 3), "b.jsonl"))]
    settings = config(parts)
    with pytest.raises(DataError, match=r"b.jsonl holds labels, while .*a.jsonl, the first source .* holds pairs"):
        check_needs(settings, KTO, settings.data.train)


def test_a_stream_needs_max_steps():
    with pytest.raises(ConfigError, match="data.streaming needs training.max_steps"):
        check_needs(config(streaming=True), DPO, pairs("a", 3))


def test_a_streaming_dataset_needs_streaming():
    source = datasets.Dataset.from_list(pairs("a", 3)).to_iterable_dataset()
    with pytest.raises(DataError, match="set data.streaming to true"):
        prepare(config(), DPO, WORDS, source)


def test_a_stream_is_not_read_before_its_steps_and_reported_after_them():
    seen = []

    def endless():
        for number in range(10**9):
            seen.append(number)
            yield pairs("a", 5)[number % 5] if number != 7 else {}

    settings = config(streaming=True, evaluation=3, shuffle_buffer=4, on_bad_row="skip", training=STEPS)
    data = prepare(settings, DPO, WORDS, datasets.IterableDataset.from_generator(endless))
    assert isinstance(data.batches, StreamedBatches)
    assert (list(data.train), [row.number for row in data.evaluation]) == ([], [1, 2, 3])
    assert list(data.rows) == data.evaluation
    assert len(seen) < 100
    assert not data.reports
    assert sum(len(batch) for batch in data.batches.after(0)) == 32
    lines = data.conclude()
    assert data.reports["train"].dropped.keys() == {8}
    assert any("1 row dropped" in line for line in lines)


def test_a_stream_shows_a_model_the_longest_row_that_could_come():
    data = prepare(config(streaming=True, training=STEPS), DPO, WORDS, pairs("a", 40))
    assert largest_sequence(data.telling)[0] == 63
    tight = config(streaming=True, training=STEPS | {"tokens_per_microbatch": 50})
    assert largest_sequence(prepare(tight, DPO, WORDS, pairs("a", 40)).telling)[0] == 50


def test_a_row_of_a_stream_over_the_budget_is_named_when_it_comes():
    rows = [*pairs("a", 200), {**pairs("a", 1)[0], "prompt": "the " * 50}]
    settings = config(streaming=True, shuffle_buffer=1, training={"max_steps": 60, "tokens_per_microbatch": 30})
    batches = prepare(settings, DPO, WORDS, rows).batches.after(0)
    assert len(list(islice(batches, 49))) == 49
    with pytest.raises(ConfigError, match=r"list row 201: .* tokens, but training.tokens_per_microbatch is 30"):
        list(batches)


def test_a_row_of_a_stream_without_a_score_is_named_when_it_comes():
    scored = [{**row, "chosen_score": 2.0, "rejected_score": 1.0} for row in pairs("a", 100)]
    settings = config(streaming=True, shuffle_buffer=1, training={"max_steps": 60})
    batches = prepare(settings, ODPO, WORDS, [*scored, *pairs("a", 1)]).batches.after(0)
    with pytest.raises(DataError, match="list row 101: loss odpo needs a score"):
        list(batches)


def test_a_streamed_mixture(mixture):
    settings = config(mixture(labels), streaming=True, evaluation=8, shuffle_buffer=4, training=STEPS)
    data = prepare(settings, KTO, WORDS, settings.data.train)
    first, second = (part.source for part in settings.data.train)
    assert Counter(row.source for row in data.evaluation) == {first: 6, second: 2}
    rows = [row for batch in data.batches.after(0) for row in batch]
    assert all(row.mismatched for row in rows)
    assert {row.source for row in rows} == {first, second}
    data.conclude()
    assert {name: report.source for name, report in data.reports.items()} == {"train.0": first, "train.1": second}


def test_what_is_scored_of_a_stream_is_what_its_steps_take():
    settings = config(streaming=True, evaluation=3, shuffle_buffer=6, training=STEPS)
    rows = pairs("a", 200)
    found = stream(settings, DPO, WORDS, rows)
    data = prepare(settings, DPO, WORDS, rows)
    assert list(found.rows) == [*data.evaluation, *(row for batch in data.batches.after(0) for row in batch)]
    assert found.reports["train"].num_kept == 3 + 32 + 6


def test_every_row_of_a_mixture_is_scored(mixture, model_folder, tmp_path):
    values = {
        "model": str(model_folder),
        "data": {"train": mixture(), "max_length": 64},
        "loss": "dpo",
        "reference": {"mode": "cached", "cache_dir": str(tmp_path / "store")},
        "output_dir": str(tmp_path / "out"),
    }
    assert precompute(parse_config(values), DPO)["rows_scored"] == 70
