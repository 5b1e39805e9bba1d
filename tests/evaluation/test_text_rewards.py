from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from prefopt.errors import ModelError
from prefopt.evaluation.text_rewards import Classifier, vader
from tests.data.tokenizers import tokenizer


@pytest.mark.parametrize("labels", [("NEGATIVE", "POSITIVE"), ("positive", "neutral", "negative")])
def test_a_classifiers_reward_is_the_log_odds_of_its_positive_label(classifier, labels):
    texts = ["hello there", "the sky is blue, and the sea is blue too.", "a"]
    folder = classifier(*labels)
    model, words = AutoModelForSequenceClassification.from_pretrained(folder), tokenizer("without_bos")
    place = [label.lower() for label in labels].index("positive")
    for text, reward in zip(texts, Classifier(folder)(texts), strict=True):
        with torch.no_grad():
            chance = model(**words(text, return_tensors="pt")).logits[0].double().softmax(0)[place]
        assert reward == pytest.approx(float(torch.logit(chance)), abs=1e-4)


def test_a_reward_models_one_output_is_the_reward(classifier):
    folder = classifier("reward")
    model, words = AutoModelForSequenceClassification.from_pretrained(folder), tokenizer("without_bos")
    with torch.no_grad():
        truth = model(**words("hello", return_tensors="pt")).logits.item()
    assert Classifier(folder)(["hello"]) == [pytest.approx(truth, abs=1e-5)]


def test_a_classifier_without_a_positive_label_is_refused_with_its_labels(classifier):
    with pytest.raises(ModelError, match="has the labels LABEL_0, LABEL_1; one must be called POSITIVE"):
        Classifier(classifier("LABEL_0", "LABEL_1"))


def test_a_model_that_is_no_classifier_is_refused(model_folder):
    with pytest.raises(ModelError, match="lacks 1 weights of a LlamaForSequenceClassification, 'score.weight' first"):
        Classifier(str(model_folder))
    with pytest.raises(ModelError, match="reward folder './nowhere' does not exist"):
        Classifier("./nowhere")


def test_vader_likes_kind_words():
    pytest.importorskip("vaderSentiment")
    assert vader()(["a wonderful evening", "an evening", "a dreadful evening"]) == [0.5719, 0.0, -0.4404]


def test_texts_longer_than_the_model_reads_are_counted(classifier):
    model = Classifier(classifier("reward"))
    assert len(model(["hello", "hello " * 600])) == 2
    assert model.num_truncated == 1
    assert model.tokenizer.decode(model.tokenizer("hello")["input_ids"]) == "hello"
