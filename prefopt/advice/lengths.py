"""Whether the length of a completion gives away that it is the better one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil

import numpy as np
from numpy.typing import NDArray

from prefopt.data.row import Row
from prefopt.evaluation.intervals import wilson
from prefopt.weighted import Objective, WeightedSum

SUSPICIOUS = 0.7
"""The accuracy from which length alone is a rival of the preference: what reward models reach on people's choices
(InstructGPT's 6B model 0.696 on labellers it never saw: Ouyang et al. 2022, arXiv 2203.02155, section 4.1)."""

NUM_READ = 10_000
"""Rows that are read, spread evenly; they place the accuracy to a hundredth."""


@dataclass(frozen=True)
class LengthGap:
    """How the lengths of better and worse completions differ; rows count with their weights.

    Attributes:
        longer: share of comparisons in which the better completion is the longer one, a tie counting one half.
        num_compared: rows that hold a comparison; of labels, the completions.
        num_trials: how many comparisons of equal weight would tell as much.
        better_tokens, worse_tokens: mean scored tokens.
    """

    longer: float
    num_compared: int
    num_trials: float
    better_tokens: float
    worse_tokens: float

    @property
    def accuracy(self) -> float:
        """How often length alone finds the better completion: always the longer, or always the shorter."""
        return max(self.longer, 1 - self.longer)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of `accuracy`."""
        return wilson(self.accuracy * self.num_trials, self.num_trials)


def length_advice(rows: Sequence[Row], loss: Objective) -> list[str]:
    """A sentence where length alone tells the better completion about as well as a model of people's choices would.

    Args:
        rows: the training rows, of which some are read.
        loss: what is trained with; one that imitates the better completion alone compares nothing.
    """
    parts = [part for _, part in loss.parts] if isinstance(loss, WeightedSum) else [loss]
    comparing = [part for part in parts if "demonstrations" not in set(part.needs.rows)]
    some = [rows[place] for place in range(0, len(rows), ceil(len(rows) / NUM_READ) or 1)]
    gap = length_gap(some) if comparing else None
    if gap is None or gap.interval[0] <= SUSPICIOUS:
        return []
    which = "longer" if gap.longer > 0.5 else "shorter"
    what = "desirable completions are" if some[0].kind == "labels" else "the better completion is"
    low, high = gap.interval
    told = (
        f"{what} the {which} one in {gap.accuracy:.0%} of comparisons over {gap.num_compared:,} rows (mean "
        f"{gap.better_tokens:.0f} against {gap.worse_tokens:.0f} tokens): length alone finds the better one with an "
        f"accuracy of {gap.accuracy:.3f} [{low:.3f}, {high:.3f}], as well as a reward model finds what people prefer"
    )
    answers = [f"loss {part.name} {part.on_length}" for part in comparing if part.on_length]
    if len(answers) == len(comparing):
        return [f"{told}; {' and '.join(answers)}, which keeps length out of the reward, not out of the data"]
    bare = next(part for part in comparing if not part.on_length)
    return [
        f"{told}; loss {bare.name} can learn just that: balance the lengths, or take a loss that keeps length out of "
        "its reward (docs/health.md lists them)"
    ]


def length_gap(rows: Sequence[Row]) -> LengthGap | None:
    """The lengths of the better and the worse completions; None where the rows compare nothing.

    A ranking counts once, with the mean over its pairs of unequal scores. Labels compare every desirable completion
    with every undesirable one; what those comparisons are worth is bounded by the smaller side (Birnbaum and Klose
    1957: the variance of such a share is at most p (1 - p) / min(n, m)).
    """
    if rows and rows[0].kind == "labels":
        return _of_labels(rows)
    found = []
    for row in rows:
        pairs = list(_compared(row))
        if pairs:
            better, worse = np.array(pairs, dtype=np.float64).T
            found.append((row.weight, _longer(better, worse).mean(), better.mean(), worse.mean()))
    if not found:
        return None
    weights, *columns = np.array(found).T
    longer, better_tokens, worse_tokens = (float((weights * column).sum() / weights.sum()) for column in columns)
    return LengthGap(longer, len(found), _num_effective(weights), better_tokens, worse_tokens)


def _compared(row: Row) -> Iterator[tuple[int, int]]:
    """(tokens of the better, tokens of the worse) of every pair in a row."""
    if row.kind == "pairs":
        chosen, rejected = row.completions
        yield chosen.num_scored, rejected.num_scored
    elif row.kind == "rankings":
        for one, other in combinations(row.completions, 2):
            if one.score is not None and other.score is not None and one.score != other.score:
                better, worse = (one, other) if one.score > other.score else (other, one)
                yield better.num_scored, worse.num_scored


def _of_labels(rows: Sequence[Row]) -> LengthGap | None:
    sides = []
    for label in (True, False):
        own = [(row.completions[0].num_scored, row.weight) for row in rows if row.desirable is label]
        if not own:
            return None
        sides.append(np.array(own, dtype=np.float64).T)
    (better, of_better), (worse, of_worse) = sides
    # Against the worse ones in order: how much weight lies below each better one, and how much below or level.
    order = worse.argsort()
    below = np.concatenate([[0.0], of_worse[order].cumsum()])
    shorter, level = (np.searchsorted(worse[order], better, side=side) for side in ("left", "right"))
    wins = (below[shorter] + below[level]) / 2 / of_worse.sum()
    return LengthGap(
        longer=float((of_better * wins).sum() / of_better.sum()),
        num_compared=len(rows),
        num_trials=min(_num_effective(of_better), _num_effective(of_worse)),
        better_tokens=float((of_better * better).sum() / of_better.sum()),
        worse_tokens=float((of_worse * worse).sum() / of_worse.sum()),
    )


def _longer(better: NDArray[np.float64], worse: NDArray[np.float64]) -> NDArray[np.float64]:
    return (np.sign(better - worse) + 1) / 2


def _num_effective(weights: NDArray[np.float64]) -> float:
    """Kish's number of equal weights that tell as much."""
    return float(weights.sum() ** 2 / np.square(weights).sum())
