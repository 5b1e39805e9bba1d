"""A served model as a judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prefopt.config.evaluation import JudgeConfig
from prefopt.draws import Draws
from prefopt.evaluation.endpoint import Endpoint, Request
from prefopt.evaluation.judges.comparison import Comparison, Judgement, Verdict
from prefopt.evaluation.judges.questions import ask, read

_MAX_TOKENS = 512  # room for the comparison, and for models that think a little before it


class ServedJudge:
    """Shows a model both answers in random order, once a comparison; of equal answers, a tie, nobody is asked.

    Attributes:
        about: who it is, for the record.
        costly: True: nothing is asked twice.
    """

    costly = True

    def __init__(self, settings: JudgeConfig, seed: int) -> None:
        """Ask nothing yet.

        Args:
            settings: with `url`, `model` and `prompt`.
            seed: of the order of the answers.

        Raises:
            ConfigError: the client is not installed, or the variable of the key is not set.
        """
        endpoint = settings.endpoint
        assert endpoint is not None
        assert settings.prompt is not None
        self.about: Mapping[str, Any] = {"url": endpoint.url, "model": endpoint.model, "prompt": settings.prompt}
        self._question = settings.prompt
        self._seed = seed
        self._endpoint = Endpoint(endpoint, "evaluation.judge")

    def question(self, comparison: Comparison) -> Any:
        """What is asked, word for word, and whose answer stands first: a verdict names sides, not letters."""
        return [self._words(comparison), "policy" if self._policy_first(comparison) else "other"]

    def judge(self, comparisons: Sequence[Comparison]) -> Iterator[tuple[int, Judgement]]:
        """As `Judge.judge`, in the order in which replies come."""
        asked = []
        for number, comparison in enumerate(comparisons):
            if comparison.policy == comparison.other:
                yield number, Judgement("tie", {"first": "policy", "reply": None})
            else:
                asked.append(number)
        requests = [
            Request([{"role": "user", "content": self._words(comparisons[number])}], _MAX_TOKENS, temperature=0.0)
            for number in asked
        ]
        for place, reply in self._endpoint.answers(requests):
            comparison = comparisons[asked[place]]
            first: Verdict = "policy" if self._policy_first(comparison) else "other"
            second: Verdict = "other" if first == "policy" else "policy"
            verdict: dict[str | None, Verdict | None] = {"A": first, "B": second, "tie": "tie", None: None}
            yield asked[place], Judgement(verdict[read(reply)], {"first": first, "reply": reply})

    def _words(self, comparison: Comparison) -> str:
        answers = comparison.policy, comparison.other
        first, second = answers if self._policy_first(comparison) else answers[::-1]
        return ask(self._question, comparison.prompt, first, second)

    def _policy_first(self, comparison: Comparison) -> bool:
        """Keyed by seed and row, so that a second start asks the same."""
        return bool(Draws((comparison.number,), self._seed).uniform([1]) < 0.5)
