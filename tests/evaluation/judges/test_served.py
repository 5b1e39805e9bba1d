from __future__ import annotations

from dataclasses import replace

import pytest

from prefopt.config.evaluation import JudgeConfig
from prefopt.errors import ModelError
from prefopt.evaluation.judges.judgements import Judgements
from prefopt.evaluation.judges.scores import named
from prefopt.evaluation.judges.served import ServedJudge
from prefopt.evaluation.judges.win_rate import win_rate
from tests.evaluation.judges.comparisons import compared
from tests.evaluation.servers import ScriptedServer, chat, longer_wins, refusal

pytest.importorskip("openai")

# Lengths that no two share within a pair but one, which is equal, and one whose answers are alike.
ANSWERS = [("x" * (number * 7 % 11 + 1), "y" * (number * 5 % 13 + 1)) for number in range(40)] + [("same", "same")]


def judge(url, **settings):
    return ServedJudge(JudgeConfig(url=url, model="j", prompt="dialogue", retries=0, **settings), seed=0)


def test_a_served_judge_that_goes_by_length_agrees_with_the_judge_of_length(tmp_path):
    comparisons = compared(*ANSWERS)
    truth = win_rate(named("length"), comparisons, Judgements(tmp_path / "a.jsonl"))
    with ScriptedServer(longer_wins) as server:
        found = win_rate(judge(server.url), comparisons, Judgements(tmp_path / "b.jsonl"))
    assert (found.wins, found.losses, found.ties) == (truth.wins, truth.losses, truth.ties)
    assert found.rate == truth.rate
    assert min(found.wins, found.losses, found.ties) > 0
    assert all(body["temperature"] == 0 for body in server.requests)


def test_the_order_is_random_and_keyed_by_seed_and_row(tmp_path):
    comparisons = compared(*[("mine", "yours")] * 400)
    with ScriptedServer(lambda *_: chat("Preferred: A")) as server:
        found = win_rate(judge(server.url), comparisons, Judgements(tmp_path / "a.jsonl"))
    assert found.first_preferred == 1.0
    assert abs(found.wins - 200) < 4 * 10  # a judge that always takes the first one wins half, four sigma
    again = judge("http://localhost/v1")
    assert [again.question(own) for own in comparisons] == [again.question(own) for own in comparisons]


def test_equal_answers_are_a_tie_and_nobody_is_asked(tmp_path):
    with ScriptedServer(longer_wins) as server:
        found = win_rate(judge(server.url), compared(("same", "same")), Judgements(tmp_path / "a.jsonl"))
    assert found.ties == 1
    assert not server.requests


def test_replies_without_a_verdict_are_listed_and_count_nowhere(tmp_path):
    def answer(path, body, headers):
        return (
            chat("I like both.")
            if "Question 2\n" in body["messages"][0]["content"]
            else longer_wins(path, body, headers)
        )

    with ScriptedServer(answer) as server:
        found = win_rate(judge(server.url), compared(("xx", "y"), ("xx", "y"), ("x", "yy")), Judgements(tmp_path / "a"))
    assert found.unreadable == ("rows row 2",)
    assert (found.wins, found.losses, found.ties, found.rate) == (1, 1, 0, 0.5)


def test_a_second_start_asks_only_for_what_is_missing(tmp_path):
    comparisons, path, limit = compared(*ANSWERS), tmp_path / "judgements.jsonl", [7]

    def answer(path, body, headers):
        return longer_wins(path, body, headers) if len(server.requests) <= limit[0] else refusal(400, "out of money")

    with ScriptedServer(answer) as server:
        with pytest.raises(ModelError, match="out of money"):
            win_rate(judge(server.url, concurrency=2), comparisons, Judgements(path))
        kept = len(path.read_text().splitlines())
        assert kept == 8  # and the tie that nobody was asked about
        server.requests.clear()
        limit[0] = 1000
        found = win_rate(judge(server.url), comparisons, Judgements(path))
        assert len(server.requests) == found.asked == len(comparisons) - kept
        again = win_rate(judge(server.url), comparisons, Judgements(path))
        assert len(server.requests) == len(comparisons) - kept
    truth = win_rate(named("length"), comparisons, Judgements(tmp_path / "other.jsonl"))
    for own in (found, again):
        assert (own.wins, own.losses, own.ties) == (truth.wins, truth.losses, truth.ties)
    assert again.asked == 0


def test_another_judge_prompt_or_answer_is_another_question(tmp_path):
    path = tmp_path / "judgements.jsonl"
    with ScriptedServer(longer_wins) as server:
        first = judge(server.url)
        win_rate(first, compared(("xx", "y")), Judgements(path))
        assert win_rate(first, compared(("xx", "y")), Judgements(path)).asked == 0
        assert win_rate(first, compared(("xxx", "y")), Judgements(path)).asked == 1
        other = ServedJudge(JudgeConfig(url=server.url, model="k", prompt="dialogue"), seed=0)
        assert win_rate(other, compared(("xx", "y")), Judgements(path)).asked == 1


def test_the_same_words_with_the_sides_exchanged_are_another_question(tmp_path):
    """A verdict names sides: what was said of one row may not stand for its mirror image."""
    comparisons = compared(*[("Yes, it is", "No"), ("No", "Yes, it is")] * 20)
    alike = [replace(own, prompt="Is it?") for own in comparisons]
    with ScriptedServer(longer_wins) as server:
        found = win_rate(judge(server.url), alike, Judgements(tmp_path / "a.jsonl"))
    assert (found.wins, found.losses) == (20, 20)
