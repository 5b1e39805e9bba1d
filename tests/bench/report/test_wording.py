import doctest

import pytest

from prefopt.bench.report import wording
from prefopt.bench.results import Results
from tests.bench.records import records


def test_the_examples_of_the_wording_hold():
    found = doctest.testmod(wording)
    assert found.attempted > 5
    assert found.failed == 0


def test_a_contender_that_leads_alone_is_said_to_lead_alone():
    board = Results.of(records(contenders={"dpo": 0.9, "kto": 0.5})).leaderboard
    assert wording.verdict(board) == "dpo has the largest area, and every other contender is significantly behind it."


def test_cells_of_two_commits_are_pointed_out():
    mixed = [record | {"commit": "abc1234" if index % 2 else None} for index, record in enumerate(records())]
    assert "different commits" in wording.facts(Results.of(mixed))["commit"]
    assert "different commits" not in wording.facts(Results.of(records()))["commit"]


@pytest.mark.parametrize(
    ("max_kls", "words"), [((2.0, 2.0), "from 0 to 2 nats"), ((2.0, 5.0), "the task's largest KL")]
)
def test_the_kl_range_is_named_where_it_is_one(max_kls, words):
    tasks = {"bradley_terry": {}, "intransitive": {}}
    ranges = dict(zip(tasks, max_kls, strict=True))
    made = [
        record | {"max_kl": ranges[record["task"]]}
        for record in records(tasks=tasks, language_model=False, failed=None)
    ]
    for record in made:
        record["optimum"] = record["optimum"] | {"kl": [kl * record["max_kl"] / 2 for kl in record["optimum"]["kl"]]}
    results = Results.of(made)
    assert words in wording.how_to_read(results.totals, results.settings)
