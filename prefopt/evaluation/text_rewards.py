"""Rewards of texts: how good each is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import PartialState
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from prefopt.engine.places import check_place
from prefopt.errors import ConfigError, ModelError

Reward = Callable[[Sequence[str]], list[float]]

_AT_ONCE = 64


def vader() -> Reward:
    """VADER's compound score: rated words and rules, from -1, most negative, to 1, most positive.

    Source:
        Hutto, Gilbert: VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text, 2014.

    Raises:
        ConfigError: vaderSentiment is not installed.

    Example:
        >>> vader()(["a wonderful evening", "a dreadful evening", "an evening"])
        [0.5719, -0.4404, 0.0]
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise ConfigError(
            "reward 'vader' needs the package vaderSentiment, which is not installed; "
            "install prefopt[demo], or name a classifier"
        ) from None
    analyzer = SentimentIntensityAnalyzer()
    return lambda texts: [float(analyzer.polarity_scores(text)["compound"]) for text in texts]


class Classifier:
    """A sequence classifier's log-odds of its positive label, nats; the one output of a reward model as it is.

    Attributes:
        tokenizer: its own.
        num_truncated: texts so far that were longer than it reads, whose ends were cut.
    """

    def __init__(self, name: str, what: str = "reward") -> None:
        """Load it where the run computes.

        Args:
            name: a folder or a Hub id; no code from there is run.
            what: it is, for messages.

        Raises:
            ModelError: there is no classifier, its weights are not complete, or none of its labels is POSITIVE.
        """
        check_place(name, what)
        # Without a word on remote code transformers asks on the terminal, and runs it on a "y".
        source = {"trust_remote_code": False}
        load: Any = AutoModelForSequenceClassification.from_pretrained  # its declared type leaves out the loading info
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name, **source)
            self._model, info = load(name, dtype=torch.float32, output_loading_info=True, **source)
        except Exception as error:  # transformers, safetensors, the Hub and HTTP raise their own
            reason = " ".join(str(error).split())
            raise ModelError(f"{what} {name!r} could not be loaded as a sequence classifier: {reason[:300]}") from error
        if info["missing_keys"]:
            missing = sorted(info["missing_keys"])
            raise ModelError(
                f"{what} {name!r} lacks {len(missing)} weights of a {type(self._model).__name__}, {missing[0]!r} "
                "first, which would be random; it is no trained sequence classifier"
            )
        self._positive = _positive(what, name, self._model.config.id2label)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._model.config.pad_token_id = self.tokenizer.pad_token_id
        self._model.train(False).to(PartialState().device)
        positions = getattr(self._model.config, "max_position_embeddings", None)
        self._max_length = min(self.tokenizer.model_max_length, positions or self.tokenizer.model_max_length)
        self.num_truncated = 0

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], *, special_tokens: bool = True) -> list[float]:
        """One reward a text.

        Args:
            texts: a prompt with a completion each.
            special_tokens: False: they stand in the text already, put there by a chat template.
        """
        found: list[float] = []
        cut = {} if self._max_length > 10**9 else {"truncation": True, "max_length": self._max_length}
        for start in range(0, len(texts), _AT_ONCE):
            some = list(texts[start : start + _AT_ONCE])
            options = {"add_special_tokens": special_tokens, "padding": True, "return_tensors": "pt", **cut}
            lengths = map(len, self.tokenizer(some, add_special_tokens=special_tokens)["input_ids"]) if cut else ()
            self.num_truncated += sum(length > self._max_length for length in lengths)
            batch = self.tokenizer(some, **options).to(self._model.device)
            logits = self._model(**batch).logits
            found += _log_odds(logits, self._positive).tolist()
        return found


def _positive(what: str, name: str, labels: dict[int, str]) -> int:
    if len(labels) == 1:
        return 0
    for index, label in labels.items():
        if label.lower() in ("positive", "pos"):
            return int(index)
    raise ModelError(
        f"{what} {name!r} has the labels {', '.join(labels.values())}; one must be called POSITIVE (id2label in its "
        "config.json says how they are called)"
    )


def _log_odds(logits: torch.Tensor, positive: int) -> torch.Tensor:
    """[B] log p - log (1 - p) of the positive label from logits [B, L]; the logit itself where there is one only.

    >>> _log_odds(torch.tensor([[0.5, 2.0]]), 1)
    tensor([1.5000])
    """
    own = logits[:, positive]
    if logits.shape[1] == 1:
        return own
    others = torch.cat([logits[:, :positive], logits[:, positive + 1 :]], 1)
    return own - others.logsumexp(1)
