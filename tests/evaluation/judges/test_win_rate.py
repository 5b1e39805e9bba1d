from __future__ import annotations

import pytest
import scipy.stats

from prefopt.evaluation.intervals import wilson
from prefopt.evaluation.judges.comparison import Judgement
from prefopt.evaluation.judges.judgements import Judgements
from prefopt.evaluation.judges.scores import named
from prefopt.evaluation.judges.win_rate import count, win_rate
from tests.evaluation.judges.comparisons import compared


def test_a_tie_is_half_a_win_and_what_cannot_be_read_counts_nowhere():
    verdicts = ["policy"] * 5 + ["other"] * 2 + ["tie"] * 3 + [None] * 4
    comparisons = compared(*[("a", "b")] * len(verdicts))
    judgements = [Judgement(verdict, {"first": "policy", "reply": "so"}) for verdict in verdicts]
    found = count(comparisons, judgements, asked=14)
    assert (found.wins, found.losses, found.ties, len(found.unreadable)) == (5, 2, 3, 4)
    assert found.rate == 6.5 / 10
    assert found.interval == wilson(6.5, 10)
    assert found.first_preferred == (5 + 3 / 2) / 10
    assert found.unreadable[0] == "rows row 11"


def test_the_interval_is_scipys():
    judgements = [
        Judgement(side, {"scores": {"policy": 0.0, "other": 0.0}}) for side in ["policy"] * 13 + ["other"] * 7
    ]
    found = count(compared(*[("a", "b")] * 20), judgements, asked=20)
    truth = scipy.stats.binomtest(13, 20).proportion_ci(method="wilson")
    assert found.interval == pytest.approx((truth.low, truth.high))
    assert found.first_preferred is None


def test_no_verdict_at_all_is_no_rate():
    found = count(compared(("a", "b")), [Judgement(None, {"first": "policy", "reply": ""})], asked=1)
    assert found.rate is None
    assert "rate" not in found.as_dict()
    assert found.as_dict()["unreadable"] == ["rows row 1"]


def test_scores_come_with_the_error_of_their_paired_difference(tmp_path):
    answers = [("a" * own, "b" * other) for own, other in ((3, 1), (5, 9), (2, 2), (8, 1))]
    found = win_rate(named("length"), compared(*answers), Judgements(tmp_path / "judgements.jsonl"))
    assert (found.wins, found.losses, found.ties, found.asked) == (2, 1, 1, 4)
    assert found.scores["policy"].mean == 18 / 4
    assert found.scores["difference"].mean == pytest.approx(5 / 4)
    assert found.scores["difference"].standard_error == pytest.approx(scipy.stats.sem([2, -4, 0, 7]))


def test_scores_are_computed_anew_and_equal_questions_once(tmp_path):
    judgements = Judgements(tmp_path / "judgements.jsonl")
    calls = []
    judge = named("length")
    scores = judge._scores
    judge._scores = lambda some: calls.append(len(some)) or scores(some)
    same = compared(("aa", "b"))[0]
    for _ in range(2):
        found = win_rate(judge, [same, same], judgements)
        assert (found.wins, found.asked) == (2, 1)
    assert calls == [1, 1]
    assert len((tmp_path / "judgements.jsonl").read_text().splitlines()) == 1
