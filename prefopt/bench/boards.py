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
        settings: [B] which.
        seeds: [S] all held-out seeds that any method ran on there.
        methods: [M] names of those that have all the seeds in any of the settings.
        scores: [M] of each the settings where it has all the seeds, and its score there.
        areas: [M, B, S], 0 where there is no such score.
        present: [M, B] there is one.
    """

    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    scores: tuple[Mapping[Setting, Score], ...]
    areas: Floats
    present: NDArray[np.bool_]

    @classmethod
    def of(cls, settings: Sequence[Setting], scores: Mapping[tuple[Setting, str], Score]) -> Field:
        """The field of the scores in those settings."""
        columns = {setting: column for column, setting in enumerate(settings)}
        there = [score for score in scores.values() if score.setting in columns]
        seeds = tuple(sorted({seed for score in there for seed in score.seeds}))
        found: dict[str, dict[Setting, Score]] = {}
        for score in sorted(there, key=lambda score: (score.method, columns[score.setting])):
            if set(score.seeds) == set(seeds):
                found.setdefault(score.method, {})[score.setting] = score
        areas = np.zeros((len(found), len(settings), len(seeds)))
        present = np.zeros(areas.shape[:2], dtype=bool)
        for row, own in enumerate(found.values()):
            for setting, score in own.items():
                by_seed = dict(zip(score.seeds, score.area.values, strict=True))
                areas[row, columns[setting]] = [by_seed[seed] for seed in seeds]
                present[row, columns[setting]] = True
        return cls(tuple(settings), seeds, tuple(found), tuple(found.values()), areas, present)

    def completes(self, method: int) -> bool:
        """Whether the method is there in every setting."""
        return bool(self.present[method].all())

    def contends(self, method: int) -> bool:
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
    methods = range(len(field.methods))
    contenders = [method for method in methods if field.contends(method)]
    areas = [Estimate.of(own[there].mean(0)) for own, there in zip(field.areas, field.present, strict=True)]
    best = max((own for own in contenders if field.completes(own)), key=lambda own: areas[own].mean, default=None)
    ranks: dict[int, float] = {}
    differences: dict[int, Estimate] = {}
    p: dict[int, float] = {}
    p_holm: dict[int, float] = {}
    power = None
    if best is not None:
        blocks = np.where(field.present[..., None], field.areas, np.nan)[contenders].reshape(len(contenders), -1)
        ranks = dict(zip(contenders, average_ranks(blocks).tolist(), strict=True))
        others = [method for method in methods if method != best]
        found, _ = field.differences(others, [best] * len(others))
        differences = {method: Estimate.of(own) for method, own in zip(others, found, strict=True)}
        tested = [method for method in contenders if method != best]
        found = found[[method in tested for method in others]]
        raw = paired_test(found, 0.0)
        p, p_holm = (dict(zip(tested, own.tolist(), strict=True)) for own in (raw, holm(raw)))
        power = _power(found)

    def place(method: int) -> tuple[float, bool, str]:
        ahead = areas[method].mean if best is None else differences[method].mean if method != best else 0.0
        return -ahead, method != best, field.methods[method]

    rows = tuple(
        Row(
            method=field.methods[method],
            knows_reward=method not in contenders,
            area=areas[method],
            rank=ranks.get(method),
            num_settings=int(field.present[method].sum()),
            complete=field.completes(method),
            difference=differences.get(method),
            p=p.get(method),
            p_holm=p_holm.get(method),
            tied=method == best or p_holm.get(method, 0.0) >= LEVEL,
            cells=tuple(cell for score in field.scores[method].values() for cell in score.cells),
        )
        for method in sorted(methods, key=place)
    )
    return Board(field.settings, field.seeds, rows, None if best is None else field.methods[best], power)


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
