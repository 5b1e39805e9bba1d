"""Methods side by side: over all settings, in one setting, or two at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prefopt.bench.estimate import Estimate
from prefopt.bench.scores import Score, Setting
from prefopt.bench.statistics import LEVEL, Floats, average_ranks, detectable_difference, holm, paired_test


@dataclass(frozen=True)
class Row:
    """One method on a board.

    Attributes:
        method: its name.
        knows_reward: it reads the true reward: a bound, which is shown but neither best nor ranked nor tested.
        area: mean over its settings within each seed, then over seeds.
        rank: mean over (setting, seed) of its place among the complete contenders; 1 is the best, ties share. None: a
            bound, or no contender is complete.
        num_settings: how many of the board's settings it ran on, every seed of them.
        complete: it ran on all of them. Others are compared on the settings they share, and are never the best.
        difference: its area less the best contender's, on the settings that both have. None: it is the best, or there
            is none.
        p: of the paired t-test of that difference over seeds. None: not tested.
        p_holm: the same after Holm's correction over all tests of the board.
        tied: it is the best, or a contender that is not significantly different from it.
        cells: ids of all cells that its numbers come from.
    """

    method: str
    knows_reward: bool
    area: Estimate
    rank: float | None
    num_settings: int
    complete: bool
    difference: Estimate | None
    p: float | None
    p_holm: float | None
    tied: bool
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Power:
    """Which differences from the best this many seeds could have seen.

    Attributes:
        num_seeds: pairs of each test.
        num_comparisons: tests.
        smallest: the true difference that one test finds with 80 % power at 5 % two-sided, median over the
            comparisons; unit of the area.
        smallest_holm: the same at the first and strictest step of Holm's correction.
    """

    num_seeds: int
    num_comparisons: int
    smallest: float
    smallest_holm: float


@dataclass(frozen=True)
class Board:
    """The methods on some settings.

    Attributes:
        settings: which.
        seeds: [S] all held-out seeds that any method ran on there.
        rows: by the difference to the best, largest first; without a best, by area.
        best: the complete contender with the largest area; None: no contender is complete. Being chosen by the values
            it is then compared with flatters it a little.
        power: None with fewer than two seeds, or nothing to compare.
    """

    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    best: str | None
    power: Power | None


@dataclass(frozen=True)
class Comparison:
    """Two methods, paired by seed.

    Attributes:
        first, second: their names.
        difference: area of the first less the second's, mean over the settings that both have within each seed, then
            over seeds.
        p: of the paired t-test; 1 with one seed.
        p_holm: the same after Holm's correction over all pairs; None: it stands alone.
        num_settings: that both have.
    """

    first: str
    second: str
    difference: Estimate
    p: float
    p_holm: float | None
    num_settings: int


@dataclass(frozen=True)
class Field:
    """The areas of all methods on some settings.

    Attributes:
        settings: B of them.
        seeds: [S] all held-out seeds that any method ran on there.
        scores: M methods, each with its score in every setting where it has all the seeds.
        areas: [M, B, S], 0 where there is no score.
        present: [M, B] there is one.
    """

    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    scores: Mapping[str, Mapping[Setting, Score]]
    areas: Floats
    present: NDArray[np.bool_]

    @classmethod
    def of(cls, settings: Sequence[Setting], scores: Mapping[tuple[Setting, str], Score]) -> Field:
        """The field of the scores in those settings."""
        wanted = set(settings)
        there = [score for score in scores.values() if score.setting in wanted]
        seeds = tuple(sorted({seed for score in there for seed in score.seeds}))
        found: dict[str, dict[Setting, Score]] = {}
        for score in sorted(there, key=lambda score: score.method):
            if set(score.seeds) == set(seeds):
                found.setdefault(score.method, {})[score.setting] = score
        areas = np.zeros((len(found), len(settings), len(seeds)))
        present = np.zeros(areas.shape[:2], dtype=bool)
        for row, own in enumerate(found.values()):
            for column, setting in enumerate(settings):
                if setting in own:
                    score = own[setting]
                    by_seed = dict(zip(score.seeds, score.area.values, strict=True))
                    areas[row, column] = [by_seed[seed] for seed in seeds]
                    present[row, column] = True
        return cls(tuple(settings), seeds, found, areas, present)

    @property
    def methods(self) -> list[str]:
        """[M] their names."""
        return list(self.scores)

    def contends(self, method: str) -> bool:
        """Whether the method does without the true reward."""
        return not any(score.knows_reward for score in self.scores[method].values())

    def differences(self, first: Sequence[int], second: Sequence[int]) -> tuple[Floats, NDArray[np.intp]]:
        """[N, S] areas of the first methods less the second's on the settings both have, and [N] how many those are.

        Args:
            first, second: [N] indices of methods that share a setting.
        """
        both = self.present[first] & self.present[second]
        shared = np.where(both[..., None], self.areas[first] - self.areas[second], 0.0)
        return shared.sum(1) / both.sum(1)[:, None], both.sum(1)


def board(field: Field) -> Board:
    """The board of a field."""
    methods, complete = field.methods, [bool(own.all()) for own in field.present]
    contenders = [index for index, method in enumerate(methods) if field.contends(method)]
    means = [Estimate.of(own[there].mean(0)) for own, there in zip(field.areas, field.present, strict=True)]
    best = max((i for i in contenders if complete[i]), key=lambda i: means[i].mean, default=None)

    ranks: dict[int, float] = {}
    differences: dict[int, Estimate] = {}
    raw: dict[int, float] = {}
    corrected: dict[int, float] = {}
    power = None
    if best is not None:
        values = np.where(field.present[..., None], field.areas, np.nan)[contenders]
        ranks = dict(zip(contenders, average_ranks(values.reshape(len(contenders), -1)).tolist(), strict=True))
        others = [index for index in range(len(methods)) if index != best]
        to_best, _ = field.differences(others, [best] * len(others))
        differences = {index: Estimate.of(own) for index, own in zip(others, to_best, strict=True)}
        tested = [index for index in contenders if index != best]
        found = np.array([differences[index].values for index in tested]).reshape(len(tested), -1)
        p = paired_test(found, 0.0)
        raw, corrected = (dict(zip(tested, own.tolist(), strict=True)) for own in (p, holm(p)))
        power = _power(found)

    def place(index: int) -> tuple[float, bool, str]:
        ahead = differences[index].mean if index in differences else 0.0 if best is not None else means[index].mean
        return -ahead, index != best, methods[index]

    rows = tuple(
        Row(
            method=methods[index],
            knows_reward=index not in contenders,
            area=means[index],
            rank=ranks.get(index),
            num_settings=int(field.present[index].sum()),
            complete=complete[index],
            difference=differences.get(index),
            p=raw.get(index),
            p_holm=corrected.get(index),
            tied=index == best or corrected.get(index, 0.0) >= LEVEL,
            cells=tuple(cell for score in field.scores[methods[index]].values() for cell in score.cells),
        )
        for index in sorted(range(len(methods)), key=place)
    )
    return Board(field.settings, field.seeds, rows, None if best is None else methods[best], power)


def _power(differences: Floats) -> Power | None:
    """What the tests of the differences [N, S] could have seen."""
    num_comparisons, num_seeds = differences.shape
    if num_comparisons == 0 or num_seeds < 2:
        return None
    spread = float(np.median(differences.std(-1, ddof=1)))
    levels = (LEVEL, LEVEL / num_comparisons)
    one, strictest = (float(detectable_difference(spread, num_seeds, level)) for level in levels)
    return Power(num_seeds, num_comparisons, one, strictest)


def pairs(field: Field, methods: Sequence[str]) -> tuple[Comparison, ...]:
    """All pairs of the methods that share a setting, the earlier named first, corrected together."""
    index = [field.methods.index(method) for method in methods]
    both = [
        (a, b)
        for place, a in enumerate(index)
        for b in index[place + 1 :]
        if (field.present[a] & field.present[b]).any()
    ]
    if not both:
        return ()
    found, counts = field.differences(*map(list, zip(*both, strict=True)))
    p = paired_test(found, 0.0)
    return tuple(
        Comparison(field.methods[a], field.methods[b], Estimate.of(own), raw, corrected, count)
        for (a, b), own, raw, corrected, count in zip(
            both, found, p.tolist(), holm(p).tolist(), counts.tolist(), strict=True
        )
    )
