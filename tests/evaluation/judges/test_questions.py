from __future__ import annotations

import pytest

from prefopt.evaluation.judges.questions import QUESTIONS, ask, read


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A says more.\nPreferred: A", "A"),
        ("B.\n\n**Preferred: B**", "B"),
        ("preferred - tie.", "tie"),
        ("Preferred: A\nNo, wait.\nPreferred: B", "B"),
        ("<think>Preferred: A?</think>\nPreferred: TIE", "tie"),
        ("Preferred: A or B", None),
        ("I prefer A", None),
        ("Preferred:", None),
        ("Preferred: C", None),
        ("", None),
    ],
)
def test_the_last_line_that_is_a_verdict_counts(reply, verdict):
    assert read(reply) == verdict


@pytest.mark.parametrize("question", sorted(QUESTIONS))
def test_a_question_holds_prompt_and_answers_in_order_and_asks_for_a_readable_verdict(question):
    prompt = [{"role": "user", "content": "What is {first}?"}]
    text = ask(question, prompt, "the {second} one", "this")
    assert "user: What is {first}?" in text
    assert text.index("A:\nthe {second} one") < text.index("B:\nthis")
    for line, verdict in zip(text.splitlines()[-3:], ("A", "B", "tie"), strict=True):
        assert read(line) == verdict
