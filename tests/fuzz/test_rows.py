"""No bad row is trained on, and no good one is lost, whatever stands in a file."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz import rows
from tests.fuzz.commands import run

few = settings(max_examples=12, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck))


@few
@given(file=rows.files(num_lines=(18, 26)))
def test_some_300_rows(file, ground):
    rows.play(file, ground / "model", run)


@pytest.mark.parametrize("kind", rows.LOSS)
def test_every_named_fault_once(kind, ground):
    rows.play(rows.every_fault(kind), ground / "model", run)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(few, max_examples=110)
@given(file=rows.files(num_lines=(18, 26)))
def test_more_than_2000_rows(file, ground):
    rows.play(file, ground / "model", run)


@pytest.mark.parametrize("said", ["good", "bad"])
def test_a_row_that_is_not_what_it_was_said_to_be_is_found(said, ground):
    """The test of the test: with one row's verdict turned round, the same file no longer passes."""
    right = b'{"prompt": "a", "chosen": " b", "rejected": " c"}'
    lines = [rows.Line(right, "good", ""), rows.Line(b'{"prompt": "a"}', "bad", ""), rows.Line(right, "good", "")]
    file = rows.File("pairs", "jsonl", tuple(lines))
    rows.play(file, ground / "model", run)
    index = 1 if said == "good" else 2
    lines[index] = dataclasses.replace(lines[index], verdict=said)
    with pytest.raises(AssertionError):
        rows.play(dataclasses.replace(file, lines=tuple(lines)), ground / "model", run)
