"""How often a judge prefers the policy's answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prefopt.evaluation.estimates import Estimate, mean_of
from prefopt.evaluation.intervals import wilson
from prefopt.evaluation.judges.comparison import Comparison, Judge, Judgement
from prefopt.evaluation.judges.judgements import Judgements, key_of


@dataclass(frozen=True)
class WinRate:
    """The outcome of all comparisons.

    Attributes:
        wins, losses, ties: of the policy.
        unreadable: rows of which the judge's reply holds no verdict; they count nowhere else.
        rate: (wins + ties / 2) of those that hold one; None where none does.
        interval: its 95 % Wilson interval.
        asked: comparisons the judge was asked about; of the others what it said is remembered.
        first_preferred: the share of verdicts for the answer that was shown first, ties one half; None for judges
            without an order. Far from 1/2, the judge goes by the order.
        scores: mean scores of both sides and of their difference, for judges that give any.
    """

    wins: int
    losses: int
    ties: int
    unreadable: tuple[str, ...]
    rate: float | None
    interval: tuple[float, float] | None
    asked: int
    first_preferred: float | None = None
    scores: dict[str, Estimate] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain values for JSON; what was not measured is left out."""
        named = {
            "rate": self.rate,
            "interval": self.interval and list(self.interval),
            "wins": self.wins,
            "losses": self.losses,
            "ties": self.ties,
            "unreadable": list(self.unreadable),
            "asked": self.asked,
            "first_preferred": self.first_preferred,
            "scores": None if self.scores is None else {side: own.as_dict() for side, own in self.scores.items()},
        }
        return {name: value for name, value in named.items() if value is not None}


def win_rate(
    judge: Judge,
    comparisons: Sequence[Comparison],
    judgements: Judgements,
    judged: Callable[[int], None] = lambda num_new: None,
) -> WinRate:
    """Let the judge compare, and count.

    Args:
        judge: who compares.
        comparisons: at least one.
        judgements: keeps every judgement, and knows those of a costly judge.
        judged: is told, of every comparison, 1 where the judge was asked and 0 where it had been before.

    Raises:
        PrefoptError: the judge cannot be asked, or the judgements cannot be kept; those made so far are.
    """
    keys = [key_of(judge, comparison) for comparison in comparisons]
    found: dict[int, Judgement] = {}
    if judge.costly:
        found = {number: own for number, key in enumerate(keys) if (own := judgements.find(key)) is not None}
        for _ in found:
            judged(0)
    # Two rows may ask the same; the judge is asked once.
    missing = {keys[number]: number for number in reversed(range(len(keys))) if number not in found}
    numbers = sorted(missing.values())
    said: dict[str, Judgement] = {}
    for place, judgement in judge.judge([comparisons[number] for number in numbers]):
        number = numbers[place]
        said[keys[number]] = judgement
        judgements.add(keys[number], judge, comparisons[number], judgement)
        judged(1)
    found |= {number: said[key] for number, key in enumerate(keys) if key in said}
    return count(comparisons, [found[number] for number in range(len(keys))], asked=len(numbers))


def count(comparisons: Sequence[Comparison], judgements: Sequence[Judgement], *, asked: int) -> WinRate:
    """The rate, with a tie as one half of a win.

    Args:
        comparisons: what was compared.
        judgements: what was said of each.
        asked: comparisons the judge was asked about.
    """
    verdicts = [own.verdict for own in judgements]
    wins, losses, ties = (verdicts.count(side) for side in ("policy", "other", "tie"))
    read = wins + losses + ties
    successes = wins + ties / 2
    firsts = [
        0.5 if own.verdict == "tie" else float(own.verdict == own.evidence["first"])
        for own in judgements
        if own.verdict is not None and own.evidence.get("reply") is not None
    ]
    return WinRate(
        wins=wins,
        losses=losses,
        ties=ties,
        unreadable=tuple(row.row for row, own in zip(comparisons, verdicts, strict=True) if own is None),
        rate=successes / read if read else None,
        interval=wilson(successes, read) if read else None,
        asked=asked,
        first_preferred=sum(firsts) / len(firsts) if firsts else None,
        scores=_scores(judgements),
    )


def _scores(judgements: Sequence[Judgement]) -> dict[str, Estimate] | None:
    if any("scores" not in own.evidence for own in judgements):
        return None
    policy, other = (
        torch.tensor([own.evidence["scores"][side] for own in judgements], dtype=torch.float64)
        for side in ("policy", "other")
    )
    return {"policy": mean_of(policy), "other": mean_of(other), "difference": mean_of(policy - other)}
