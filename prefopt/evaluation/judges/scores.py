"""Judges that give each answer a score: functions of the text, and reward models."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from math import isfinite
from typing import Any

from prefopt.errors import ConfigError, DataError, ModelError
from prefopt.evaluation.judges.comparison import Comparison, Judgement, better
from prefopt.evaluation.text_rewards import Classifier, vader
from prefopt.evaluation.texts import written_out

Scores = Callable[[Sequence[Comparison]], list[tuple[float, float]]]
"""Comparisons -> (score of the policy's answer, score of the other)."""


class ScoreJudge:
    """The answer with the higher score is better; equal scores are a tie.

    Attributes:
        about: who it is, for the record.
        costly: False: scores are computed anew each time.
    """

    costly = False

    def __init__(self, about: Mapping[str, Any], scores: Scores) -> None:
        """Judge by these scores."""
        self.about = about
        self._scores = scores

    def question(self, comparison: Comparison) -> Any:
        """The prompt, both answers and the truth."""
        return [comparison.prompt, comparison.policy, comparison.other, comparison.truth]

    def judge(self, comparisons: Sequence[Comparison]) -> Iterator[tuple[int, Judgement]]:
        """As `Judge.judge`, in order."""
        for number, (policy, other) in enumerate(self._scores(comparisons)):
            if not (isfinite(policy) and isfinite(other)):
                raise ModelError(f"{comparisons[number].row}: {dict(self.about)} gives a score that is not finite")
            yield number, Judgement(better(policy, other), {"scores": {"policy": policy, "other": other}})


def named(name: str) -> ScoreJudge:
    """A judge that is a function of the text.

    Args:
        name: one of `prefopt.config.evaluation.JUDGES`.

    Raises:
        ConfigError: it needs a package that is not installed.
    """
    if name == "length":
        return ScoreJudge({"name": name}, lambda some: [(float(len(c.policy)), float(len(c.other))) for c in some])
    if name == "gsm8k":
        return ScoreJudge({"name": name}, _right_numbers)
    assert name == "sentiment", name
    try:
        score = vader()
    except ConfigError:
        raise ConfigError(
            "evaluation.judge 'sentiment' needs the package vaderSentiment, which is not installed; "
            "pip install 'prefopt[judges]'"
        ) from None
    return ScoreJudge(
        {"name": name},
        lambda some: list(zip(score([c.policy for c in some]), score([c.other for c in some]), strict=True)),
    )


class RewardModelJudge(ScoreJudge):
    """A sequence classifier with one label reads prompt and answer."""

    def __init__(self, name: str) -> None:
        """Load it.

        Args:
            name: a folder or a Hub id.

        Raises:
            ModelError: there is none at that place.
        """
        super().__init__({"model": name}, self._read)
        self._model = Classifier(name, "reward model")

    @property
    def num_truncated(self) -> int:
        """Texts whose end it could not read."""
        return self._model.num_truncated

    def _read(self, comparisons: Sequence[Comparison]) -> list[tuple[float, float]]:
        template = self._model.tokenizer.chat_template is not None
        templated = [template and not isinstance(comparison.prompt, str) for comparison in comparisons]
        found: list[tuple[float, float]] = [(0.0, 0.0)] * len(comparisons)
        for wanted in (True, False):
            some = [number for number, own in enumerate(templated) if own == wanted]
            texts = [
                self._text(comparisons[number], answer, template=wanted)
                for number in some
                for answer in (comparisons[number].policy, comparisons[number].other)
            ]
            scores = self._model(texts, special_tokens=not wanted) if texts else []
            found_here = zip(some, scores[::2], scores[1::2], strict=True)
            for number, policy, other in found_here:
                found[number] = policy, other
        return found

    def _text(self, comparison: Comparison, answer: str, *, template: bool) -> str:
        """The prompt with one answer, as the reward model knows conversations."""
        if not template:
            prompt = comparison.prompt
            if isinstance(prompt, str):
                return prompt + (" " if prompt and not prompt[-1].isspace() else "") + answer
            return f"{written_out(prompt)}\n\nassistant: {answer}"
        assert not isinstance(comparison.prompt, str)
        messages = [*comparison.prompt, {"role": "assistant", "content": answer}]
        try:
            return str(self._model.tokenizer.apply_chat_template(messages, tokenize=False))
        except Exception as error:  # a template is code of the model's author and may raise anything
            raise DataError(
                f"{comparison.row}: the chat template of the reward model {self.about['model']!r} fails: "
                f"{error or type(error).__name__}"
            ) from error


def _right_numbers(comparisons: Sequence[Comparison]) -> list[tuple[float, float]]:
    found = []
    for comparison in comparisons:
        truth = right_number(comparison.row, comparison.truth)
        policy, other = (float(last_number(text) == truth) for text in (comparison.policy, comparison.other))
        found.append((policy, other))
    return found


def right_number(row: str, truth: str | None) -> Decimal:
    """The number that a right answer ends with.

    Args:
        row: its name, for the message.
        truth: what the data says of it.

    Raises:
        DataError: it says no number.
    """
    found = None if truth is None else last_number(truth)
    if found is None:
        raise DataError(
            f"{row}: evaluation.judge 'gsm8k' needs the right number, and neither a column answer nor the chosen "
            "completion has one; give the rows a column answer"
        )
    return found


_NUMBER = re.compile(r"(?:(?<![\w.)])-)?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


def last_number(text: str) -> Decimal | None:
    r"""The number a solution ends with: the first one after the last `####`, else the last one of the text.

    >>> last_number("16 - 3 = 13 eggs, so $1,300.50 a week."), last_number("2\n#### -7 eggs of 9"), last_number("none")
    (Decimal('1300.50'), Decimal('-7'), None)
    """
    _, mark, after = text.rpartition("####")
    found = _NUMBER.findall(after if mark else text)
    return Decimal(found[0 if mark else -1].replace(",", "")) if found else None
