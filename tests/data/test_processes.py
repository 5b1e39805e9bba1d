from __future__ import annotations

import os

import pytest

from prefopt.data.load import RowStream
from prefopt.data.processes import read_with
from prefopt.data.reading import RowReader
from prefopt.errors import DataError

GOOD = [{"prompt": f"Question {number}:", "chosen": " the sky", "rejected": " the sea"} for number in range(600)]
LABEL = {"prompt": "p", "completion": " c", "label": True}
TURN = {
    "prompt": [{"role": "user", "content": "hi"}],
    "chosen": [{"role": "assistant", "content": "a"}],
    "rejected": [{"role": "assistant", "content": "b"}],
}
# bad rows in several chunks, and a row that the tokenizer cannot serve
MIXED = [{"prompt": "p"}, *GOOD[:300], LABEL, "no row", {**GOOD[0], "chosen": ""}, *GOOD[300:], {}]


def read(rows, tokenizer, num_proc, on_bad_row):
    stream = RowStream(rows, tokenizer, max_length=7, on_bad_row=on_bad_row, num_proc=num_proc)
    kept = []
    try:
        kept.extend(stream)
    except DataError as error:
        return kept, str(error)
    return kept, stream.report()


@pytest.mark.parametrize(
    ("rows", "on_bad_row"),
    [
        (MIXED, "skip"),
        (MIXED[1:], "error"),
        pytest.param([*GOOD[:2], TURN, *GOOD], "skip", marks=pytest.mark.slow),
        pytest.param([{}] * 300, "skip", marks=pytest.mark.slow),
    ],
    ids=["skipped", "first bad row", "another kind of prompt", "nothing left"],
)
def test_two_processes_give_the_rows_the_report_and_the_error_of_one(plain, rows, on_bad_row):
    alone = read(rows, plain, 1, on_bad_row)
    assert read(rows, plain, 2, on_bad_row) == alone
    assert isinstance(alone[1], str) != (rows is MIXED)


class Leaving(RowReader):
    """Its process ends at the second row."""

    def __call__(self, numbered):
        if numbered[0] == 2:
            os._exit(3)
        return super().__call__(numbered)


@pytest.mark.slow
def test_a_process_that_ends_is_one_sentence(plain):
    with pytest.raises(DataError, match="data.num_proc = 2: a tokenising process ended before its work did"):
        list(read_with(Leaving("list", plain, 8), enumerate(GOOD, 1), 2))


@pytest.mark.slow
def test_rows_are_not_read_far_ahead(plain):
    seen = []

    def endless():
        for number in range(1, 10**9):
            seen.append(number)
            yield number, GOOD[0]

    outcomes = read_with(RowReader("list", plain, 8), endless(), 2)
    assert next(outcomes).row.number == 1
    outcomes.close()
    assert len(seen) < 5_000
