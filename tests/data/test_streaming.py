from __future__ import annotations

import json
from itertools import islice

import datasets
import pytest

from prefopt.data.load import load_rows
from prefopt.data.mismatch import add_mismatched
from prefopt.data.streaming import StreamedSource
from prefopt.errors import DataError

PAIRS = [{"prompt": f"Question {number}:", "chosen": " the sky", "rejected": " the sea"} for number in range(40)]
LABELS = [{"prompt": f"Question {number}:", "completion": " the sky", "label": number % 3 == 0} for number in range(40)]


def streamed(source, tokenizer, **settings):
    return StreamedSource(source, tokenizer, **{"max_length": 64, "on_bad_row": "skip"} | settings)


@pytest.mark.parametrize("form", ["list", "jsonl", "iterable dataset", "generator"])
def test_a_stream_of_any_form_gives_the_rows_of_load_rows_every_time(plain, write_rows, form):
    source = {
        "list": PAIRS,
        "jsonl": str(write_rows(PAIRS)),
        "iterable dataset": datasets.Dataset.from_list(PAIRS).to_iterable_dataset(),
        "generator": datasets.IterableDataset.from_generator(lambda: iter(PAIRS)),
    }[form]
    expected, report = load_rows(source, plain, max_length=64)
    stream = streamed(source, plain)
    for _ in range(2):
        assert list(stream.rows()) == expected
        assert stream.report() == report


def test_its_first_rows_are_held_out_and_bad_ones_do_not_count(plain):
    stream = streamed([{}, *PAIRS], plain, num_held_out=3)
    assert [row.number for row in stream.held_out] == [2, 3, 4]
    assert [row.number for row in stream.rows()] == list(range(5, 42))
    assert stream.report().dropped.keys() == {1}


def test_mismatched_completions_are_those_of_the_training_rows_alone(plain):
    stream = streamed(LABELS, plain, num_held_out=5, mismatched=True)
    rows, _ = load_rows(LABELS, plain, max_length=64)
    assert list(stream.rows()) == list(add_mismatched(rows[5:], max_length=64)[0])


def test_nothing_is_read_before_it_is_needed(plain):
    seen = []

    def endless():
        for number in range(10**9):
            seen.append(number)
            yield {**PAIRS[0], "prompt": f"Question {number}:"}

    stream = streamed(datasets.IterableDataset.from_generator(endless), plain, num_held_out=2)
    assert not seen
    assert len(stream.held_out) == 2
    assert len(stream.sample) == 64
    assert len(list(islice(stream.rows(), 10))) == 10
    assert len(seen) < 200
    assert stream.report().num_kept == 12


def test_the_report_is_of_the_pass_that_went_furthest(plain):
    stream = streamed(PAIRS, plain)
    for count in (5, 20, 10):
        assert len(list(islice(stream.rows(), count))) == count
    assert stream.report().num_kept == 20


def test_a_stream_with_nothing_left_to_train_on_is_an_error(plain):
    with pytest.raises(DataError, match="would hold out every one of its 40 rows"):
        streamed(PAIRS, plain, num_held_out=40).held_out  # noqa: B018
    with pytest.raises(DataError, match="no row is left to train on"):
        list(streamed(PAIRS, plain, num_held_out=40).rows())
    with pytest.raises(DataError, match="no usable row"):
        list(streamed([{}], plain).rows())


def test_the_first_bad_row_stops_and_a_refused_row_does(plain):
    with pytest.raises(DataError, match="list row 3: "):
        list(streamed([*PAIRS[:2], {}], plain, on_bad_row="error").rows())

    def refuse(row):
        if row.number == 7:
            raise DataError(f"{row.name} is refused")

    with pytest.raises(DataError, match="list row 7 is refused"):
        list(streamed(PAIRS, plain, check=refuse).rows())


def test_labels_that_are_all_alike_are_said(plain):
    stream = streamed([row for row in LABELS if row["label"]], plain)
    list(stream.rows())
    assert stream.notes() == [
        "list: all rows that were read are desirable (label true), so nothing was there to tell them from"
    ]
    mixed = streamed(LABELS, plain)
    list(mixed.rows())
    assert mixed.notes() == []


def test_mismatched_completions_of_the_same_prompt_are_counted_once(plain):
    stream = streamed([{**LABELS[number], "prompt": "Question:"} for number in range(5)], plain, mismatched=True)
    for _ in range(2):
        list(stream.rows())
    assert stream.notes()[0].startswith("list: 5 rows found no other prompt")


def test_every_row_that_was_dropped_or_cut_is_listed_once(plain, tmp_path, monkeypatch):
    monkeypatch.setattr("prefopt.data.report.NUM_LISTED", 2)
    long = [{**PAIRS[0], "prompt": "the " * 20} for _ in range(4)]
    stream = streamed([{}, *long, {}, {}], plain, max_length=8, listing=tmp_path / "rows.jsonl")
    assert stream.sample
    assert not (tmp_path / "rows.jsonl").exists()
    for _ in range(2):
        list(stream.rows())
    listed = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(line["row"], line["what"]) for line in listed] == [
        (1, "dropped"),
        *((number, "truncated") for number in (2, 3, 4, 5)),
        (6, "dropped"),
        (7, "dropped"),
    ]
    report = stream.report()
    assert (dict(report.num_more), report.listing) == (
        {"dropped": 1, "truncated": 2},
        str(tmp_path / "rows.jsonl"),
    )
