"""Two answers to one prompt, and what judges have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from prefopt.evaluation.texts import Prompt

Verdict = Literal["policy", "other", "tie"]


@dataclass(frozen=True)
class Comparison:
    """What a judge is shown.

    Attributes:
        row: the held-out row, by name.
        number: its number.
        prompt: text, or a conversation.
        policy, other: the answers, without blanks around them.
        truth: how a right answer ends; None where the data does not say.
    """

    row: str
    number: int
    prompt: Prompt
    policy: str
    other: str
    truth: str | None = None


@dataclass(frozen=True)
class Judgement:
    """What a judge said of a comparison.

    Attributes:
        verdict: the side that is better; None: the judge's reply says nothing that can be read.
        evidence: the scores of both sides, or the raw reply and who was shown first.
    """

    verdict: Verdict | None
    evidence: Mapping[str, Any]


class Judge(Protocol):
    """Compares answers.

    Attributes:
        about: who it is, for the record.
        costly: whether what it said before is used again instead of asking twice.
    """

    about: Mapping[str, Any]
    costly: bool

    def question(self, comparison: Comparison) -> Any:
        """All that the verdict depends on besides the judge, as plain values."""

    def judge(self, comparisons: Sequence[Comparison]) -> Iterator[tuple[int, Judgement]]:
        """(number of the comparison, what is said of it), in any order.

        Raises:
            ModelError: a judge cannot be asked.
        """


def better(policy: float, other: float) -> Verdict:
    """Which of two scores is higher.

    >>> better(1.0, 2.0), better(1.0, 1.0)
    ('other', 'tie')
    """
    return "tie" if policy == other else "policy" if policy > other else "other"
