from __future__ import annotations

import copy
import sys
from decimal import Decimal

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from prefopt.errors import ConfigError, DataError
from prefopt.evaluation.judges.comparison import Comparison
from prefopt.evaluation.judges.scores import RewardModelJudge, last_number, named
from tests.data.tokenizers import tokenizer
from tests.evaluation.judges.comparisons import compared


def verdicts(judge, comparisons):
    found = dict(judge.judge(comparisons))
    return [found[number].verdict for number in range(len(comparisons))]


def test_length_prefers_the_longer_answer():
    answers = compared(("long answer", "short"), ("a", "b"), ("", "x"))
    assert verdicts(named("length"), answers) == ["policy", "tie", "other"]


def test_sentiment_prefers_the_kinder_answer():
    pytest.importorskip("vaderSentiment")
    answers = compared(("a wonderful evening", "a dreadful evening"), ("an evening", "a morning"))
    assert verdicts(named("sentiment"), answers) == ["policy", "tie"]


def test_sentiment_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(ConfigError, match=r"evaluation.judge 'sentiment' needs .* pip install 'prefopt\[judges\]'"):
        named("sentiment")


def test_gsm8k_prefers_the_right_number_however_it_is_written():
    answers = compared(
        ("so $1,300 in all.", "it is 130"),
        ("#### 1300 eggs of 2000", "1300.0"),
        ("no idea", "1301"),
        ("1300 - 2 = 1298", "A: 1300"),
        truth="2 * 650 = 1300\n#### 1300",
    )
    assert verdicts(named("gsm8k"), answers) == ["policy", "tie", "tie", "other"]


@pytest.mark.parametrize("truth", [None, "no number here"])
def test_gsm8k_without_a_right_number_names_the_row(truth):
    with pytest.raises(DataError, match="rows row 1: .* give the rows a column answer"):
        list(named("gsm8k").judge(compared(("1", "2"), truth=truth)))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("16-7", "7"),
        ("16 - 7", "7"),
        ("= -7", "-7"),
        ("(-7)", "-7"),
        ("$2.50.", "2.50"),
        ("1,234,567 and", "1234567"),
        ("x2", "2"),
        ("3, 4,", "4"),
        (".5", ".5"),
        ("#### 5\n#### 6 of 7", "6"),
        ("9" * 6000, "9" * 6000),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "#### none, though 3 before"])
def test_no_number(text):
    assert last_number(text.replace("3 before", "three before")) is None


def test_a_reward_model_reads_prompt_and_answer(classifier):
    folder = classifier("reward")
    model, words = AutoModelForSequenceClassification.from_pretrained(folder), tokenizer("without_bos")

    def score(text):
        with torch.no_grad():
            return model(**words(text, return_tensors="pt")).logits.item()

    conversation = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]
    comparisons = [
        Comparison("row 1", 1, "the sky", "is blue", "is a girl"),
        Comparison("row 2", 2, conversation, "fine", "thank you"),
    ]
    found = dict(RewardModelJudge(folder).judge(comparisons))
    starts = ("the sky ", "system: be kind\n\nuser: hello\n\nassistant: ")
    for number, (comparison, start) in enumerate(zip(comparisons, starts, strict=True)):
        scores = found[number].evidence["scores"]
        truth = {"policy": score(start + comparison.policy), "other": score(start + comparison.other)}
        assert scores == pytest.approx(truth, abs=1e-5)
        assert found[number].verdict == ("policy" if truth["policy"] > truth["other"] else "other")


def test_a_reward_model_with_a_chat_template_is_shown_conversations_through_it(classifier):
    folder = classifier("reward")
    words = copy.deepcopy(tokenizer("without_bos", "chatml"))  # which other tests share
    words.pad_token = "<unk>"
    words.save_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "fine"}]
    ids = words(words.apply_chat_template(messages, tokenize=False), add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        truth = model(**ids).logits.item()
    comparisons = [Comparison("row 1", 1, "plain", "one", "two"), Comparison("row 2", 2, messages[:1], "fine", "no")]
    found = dict(RewardModelJudge(folder).judge(comparisons))
    assert found[1].evidence["scores"]["policy"] == pytest.approx(truth, abs=1e-5)
    words.chat_template = "{{ raise_exception('no such role') }}"
    words.save_pretrained(folder)
    with pytest.raises(DataError, match="row 2: the chat template of the reward model .* fails"):
        dict(RewardModelJudge(folder).judge(comparisons))
