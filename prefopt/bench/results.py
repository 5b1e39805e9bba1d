"""From the records of cells to every number that the report, the Markdown and the terminal show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prefopt.bench.boards import Board, Comparison, Field, Power, Row, board, pairs
from prefopt.bench.estimate import Estimate
from prefopt.bench.scores import (
    NUM_GRID,
    Frontier,
    Point,
    Score,
    Setting,
    TrialScore,
    optimal_areas,
    optimal_gains,
    score,
)
from prefopt.errors import ConfigError

__all__ = [
    "Board",
    "Comparison",
    "Estimate",
    "Frontier",
    "Omission",
    "Point",
    "Power",
    "Results",
    "Row",
    "Score",
    "Setting",
    "Totals",
    "TrialScore",
]

Record = Mapping[str, Any]
_Key = tuple[str, tuple[tuple[str, Any], ...], str]  # task, knobs, method

SPLITS = ("validation", "held_out")


@dataclass(frozen=True)
class Omission:
    """A cell, or a part of one, that the numbers do without.

    Attributes:
        cell: its id.
        task, knobs, method, split: which cell it is.
        reason: why.
    """

    cell: str
    task: str
    knobs: Mapping[str, Any]
    method: str
    split: str
    reason: str

    @classmethod
    def of(cls, record: Record, reason: str) -> Omission:
        """The omission of a record."""
        return cls(record["cell"], record["task"], record["knobs"], record["method"], record["split"], reason)


@dataclass(frozen=True)
class Totals:
    """What it took.

    Attributes:
        num_done, num_failed: cells.
        seconds: of all of them.
        seconds_by_method, seconds_by_task: the same, largest first.
        num_validation_seeds, num_held_out_seeds, num_trials: the most of any cell.
        commits: all that are recorded; more than one: not all numbers come from one state of the code.
        versions: package -> all versions that are recorded.
        suites: all that are recorded.
        first, last: when the first and the last cell finished; None: there is no cell.
    """

    num_done: int
    num_failed: int
    seconds: float
    seconds_by_method: Mapping[str, float]
    seconds_by_task: Mapping[str, float]
    num_validation_seeds: int
    num_held_out_seeds: int
    num_trials: int
    commits: tuple[str, ...]
    versions: Mapping[str, tuple[str, ...]]
    suites: tuple[str, ...]
    first: str | None
    last: str | None

    @classmethod
    def of(cls, records: Sequence[Record]) -> Totals:
        """The totals of all records."""
        by_method: Counter[str] = Counter()
        by_task: Counter[str] = Counter()
        versions: dict[str, set[str]] = {}
        for record in records:
            by_method[record["method"]] += record["seconds"]
            by_task[record["task"]] += record["seconds"]
            for package, version in record["versions"].items():
                versions.setdefault(package, set()).add(version)
        num_failed = sum(record["status"] == "failed" for record in records)
        num_seeds = {
            split: max((len(record["seeds"]) for record in records if record["split"] == split), default=0)
            for split in SPLITS
        }
        finished = sorted(record["finished"] for record in records)
        return cls(
            num_done=len(records) - num_failed,
            num_failed=num_failed,
            seconds=sum(by_task.values()),
            seconds_by_method=dict(by_method.most_common()),
            seconds_by_task=dict(by_task.most_common()),
            num_validation_seeds=num_seeds["validation"],
            num_held_out_seeds=num_seeds["held_out"],
            num_trials=max((len(record["trials"]) for record in records), default=0),
            commits=tuple(sorted({record["commit"] or "unknown" for record in records})),
            versions={package: tuple(sorted(seen)) for package, seen in sorted(versions.items())},
            suites=tuple(sorted({record["suite"] for record in records})),
            first=finished[0] if finished else None,
            last=finished[-1] if finished else None,
        )


@dataclass(frozen=True)
class Results:
    """What a benchmark found.

    Attributes:
        settings: all that have a score, by task and knobs.
        methods: all that there are cells of, failed ones too, by name.
        scores: (setting, method) -> what the method reaches there.
        optima: setting -> what nobody can beat there; only where it is known.
        leaderboard: over all settings with a known optimum; None: there is none.
        boards: setting -> the board of that setting alone.
        pairs: all pairs of contenders on the leaderboard, the better placed one first.
        failed: cells that failed and were not repeated with success.
        missing: all else that the numbers do without.
        totals: what it took.
    """

    settings: tuple[Setting, ...]
    methods: tuple[str, ...]
    scores: Mapping[tuple[Setting, str], Score]
    optima: Mapping[Setting, Frontier]
    leaderboard: Board | None
    boards: Mapping[Setting, Board]
    pairs: tuple[Comparison, ...]
    failed: tuple[Omission, ...]
    missing: tuple[Omission, ...]
    totals: Totals

    @classmethod
    def of(cls, records: Iterable[Record]) -> Results:
        """The results from the records of a suite's cells, in any order."""
        records = sorted(records, key=lambda record: (record["finished"], record["cell"]))
        kept, missing = _latest(records)
        failed = [record for record in kept.values() if record["status"] == "failed"]
        usable, unpaired = _paired(kept)
        missing += unpaired

        settings = _labelled({_setting(held_out) for _, held_out in usable})
        places = {setting: place for place, setting in enumerate(settings)}
        usable.sort(key=lambda pair: (places[_setting(pair[1])], pair[1]["method"]))
        scores: dict[tuple[Setting, str], Score] = {}
        optima: dict[Setting, Frontier] = {}
        for validation, held_out in usable:
            setting = settings[places[_setting(held_out)]]
            scores[setting, held_out["method"]], notes = score(setting, validation, held_out)
            missing += [Omission.of(held_out, note) for note in notes]
            if setting.has_optimum and setting not in optima:
                grid = np.linspace(0.0, setting.max_kl, NUM_GRID)
                optima[setting] = Frontier.of(grid, optimal_gains(held_out, grid))

        known = tuple(setting for setting in settings if setting.has_optimum)
        overall = Field.of(known, scores)
        missing += _without_all_seeds(scores, overall)
        leaderboard = board(overall) if known else None
        contenders = [row.method for row in leaderboard.rows if not row.knows_reward] if leaderboard else []
        return cls(
            settings=settings,
            methods=tuple(sorted({record["method"] for record in records})),
            scores=scores,
            optima=optima,
            leaderboard=leaderboard,
            boards={setting: board(Field.of((setting,), scores)) for setting in settings},
            pairs=pairs(overall, contenders),
            failed=_in_order(Omission.of(record, record["error"]) for record in failed),
            missing=_in_order(missing),
            totals=Totals.of(records),
        )

    def compare(self, task: str, knobs: Mapping[str, Any], first: str, second: str) -> Comparison:
        """Two methods in one setting, bounds and language-model tasks too.

        Args:
            task: of the setting.
            knobs: as many of its knobs as tell it apart.
            first, second: names of methods.

        Raises:
            ConfigError: no setting, or more than one, is meant; or one of the methods has no score there.
        """
        fitting = [own for own in self.settings if own.task == task and knobs.items() <= dict(own.knobs).items()]
        if len(fitting) != 1:
            there = ", ".join(setting.label for setting in fitting or self.settings) or "none"
            raise ConfigError(
                f"{task} with knobs {dict(knobs)!r} is {len(fitting)} settings of these results and must be one; "
                f"{'those are' if fitting else 'there are'}: {there}"
            )
        (setting,) = fitting
        scores = {method: own for (there, method), own in self.scores.items() if there == setting}
        for method in (first, second):
            if method not in scores:
                raise ConfigError(f"{method} has no score on {setting.label}; there are: {', '.join(scores)}")
        if set(scores[first].seeds) != set(scores[second].seeds):
            raise ConfigError(
                f"{first} and {second} ran on different seeds of {setting.label} and must run on the same"
            )
        both = Field.of([setting], {(setting, method): scores[method] for method in (first, second)})
        (found,) = pairs(both, [first, second])
        return replace(found, p_holm=None)


def _key(record: Record) -> _Key:
    return record["task"], tuple(sorted(record["knobs"].items())), record["method"]


def _latest(records: Sequence[Record]) -> tuple[dict[tuple[_Key, str], Record], list[Omission]]:
    """One record for every cell: the last that is done, or else the last; and the finished ones left out for it."""
    kept: dict[tuple[_Key, str], Record] = {}
    missing = []
    for record in records:
        key = (_key(record), record["split"])
        before = kept.get(key)
        if before is None or record["status"] == "done" or before["status"] == "failed":
            kept[key] = record
            if before is not None and before["status"] == "done":
                missing.append(Omission.of(before, f"cell {record['cell']} is later and takes its place"))
        else:
            missing.append(Omission.of(record, f"it failed after cell {before['cell']} was done: {record['error']}"))
    return kept, missing


def _paired(kept: Mapping[tuple[_Key, str], Record]) -> tuple[list[tuple[Record, Record]], list[Omission]]:
    """The (validation, held-out) records that belong together, and the finished ones that have no partner."""
    paired, missing = [], []
    for key in dict.fromkeys(key for key, _ in kept):
        validation, held_out = (kept.get((key, split)) for split in SPLITS)
        done = [record for record in (validation, held_out) if record is not None and record["status"] == "done"]
        if validation is None or held_out is None or len(done) < 2:
            missing += [Omission.of(record, _no_partner(record, validation, held_out)) for record in done]
        elif reason := _mismatch(validation, held_out):
            missing.append(Omission.of(held_out, reason))
        else:
            paired.append((validation, held_out))
    return paired, missing


def _no_partner(record: Record, validation: Record | None, held_out: Record | None) -> str:
    if record is validation:
        return "its held-out cell failed" if held_out else "its held-out cell is not there"
    return f"its validation cell {'failed' if validation else 'is not there'}, so that nothing selects its point"


def _mismatch(validation: Record, held_out: Record) -> str | None:
    """Why two finished cells cannot be used together, or None."""
    for what in ("trials", "steps", "max_kl"):
        if validation[what] != held_out[what]:
            return f"its validation cell has other {what}, so that its point cannot be looked up"
    seen = sorted(set(validation["seeds"]) & set(held_out["seeds"]))
    if seen:
        return f"its validation cell has seen its seeds {', '.join(map(str, seen))}"
    if held_out["optimum"] is not None and not (optimal_areas(held_out) > 0).all():
        return "the optimum gains nothing on one of its seeds, so that no share of it can be formed"
    return None


def _setting(record: Record) -> Setting:
    return Setting(*_key(record)[:2], record["max_kl"], record["optimum"] is not None)


def _labelled(settings: set[Setting]) -> tuple[Setting, ...]:
    """The settings in order, each with its label."""
    return tuple(replace(setting, label=_label(setting, settings)) for setting in sorted(settings, key=_order))


def _order(setting: Setting) -> tuple[Any, ...]:
    """By task, then by knobs; numbers by size, what is none first."""
    values = [
        (name, value is not None, value if isinstance(value, int | float) else 0.0, str(value))
        for name, value in setting.knobs
    ]
    return setting.task, values, setting.max_kl, setting.has_optimum


def _label(setting: Setting, settings: Iterable[Setting]) -> str:
    """The task and what tells the setting apart from the other settings of its task."""
    own, *others = (
        {**dict(each.knobs), "max_kl": each.max_kl} for each in (setting, *settings) if each.task == setting.task
    )
    told = [name for name, value in own.items() if any(other.get(name) != value for other in others)]
    return " ".join([setting.task, *(f"{name}={'none' if own[name] is None else own[name]}" for name in told)])


def _without_all_seeds(scores: Mapping[tuple[Setting, str], Score], overall: Field) -> list[Omission]:
    """Scores that lack seeds which others have, and so take no part in comparisons."""
    missing = []
    for (setting, method), own in scores.items():
        seeds = overall.seeds if setting.has_optimum else Field.of((setting,), scores).seeds
        absent = sorted(set(seeds) - set(own.seeds))
        if absent:
            listed = ", ".join(map(str, absent))
            reason = f"others have seeds {listed}, which it lacks, so that it takes no part in comparisons with them"
            missing.append(Omission(own.cells[1], setting.task, dict(setting.knobs), method, "held_out", reason))
    return missing


def _in_order(omissions: Iterable[Omission]) -> tuple[Omission, ...]:
    return tuple(
        sorted(omissions, key=lambda own: (own.task, str(own.knobs), own.method, own.split, own.cell, own.reason))
    )
