"""What a method reaches in a setting: from its validation cell, which selects, and its held-out cell, which counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import trapezoid

from prefopt.bench.estimate import Estimate
from prefopt.bench.statistics import Floats, mean_interval, upper_hull

NUM_GRID = 61  # KLs of a frontier's plot
NEARLY = 0.95  # of the best trial's area: a trial that reaches it found what there was to find


@dataclass(frozen=True)
class Setting:
    """A task at one setting of its knobs.

    Attributes:
        task: its name.
        knobs: (name, value) of all knobs, by name.
        max_kl: up to which KL(policy || reference) frontiers are compared, nats.
        has_optimum: the best reward at every KL is known.
        label: the task and those knobs in which its settings differ.
    """

    task: str
    knobs: tuple[tuple[str, Any], ...]
    max_kl: float
    has_optimum: bool
    label: str = field(default="", compare=False)


@dataclass(frozen=True)
class Point:
    """A selected (trial, checkpoint).

    Attributes:
        trial: its index.
        step: of the checkpoint; 0: the method does not train.
        hyperparameters: of the trial.
        validation_kl, validation_gain: means over validation seeds; nats, reward less the reference's.
        kl, gain: means over the held-out seeds on which both are finite; None: on none.
    """

    trial: int
    step: int
    hyperparameters: Mapping[str, float]
    validation_kl: float
    validation_gain: float
    kl: float | None
    gain: float | None


@dataclass(frozen=True)
class TrialScore:
    """One trial by itself.

    Attributes:
        hyperparameters: of the trial.
        area: under the hull of its checkpoints alone, held-out, mean over seeds; unit of `Score.area`.
        selected: one of its checkpoints is.
    """

    hyperparameters: Mapping[str, float]
    area: float
    selected: bool


@dataclass(frozen=True)
class Frontier:
    """A frontier for a plot.

    Attributes:
        kl: [61] from 0 to the setting's `max_kl`, nats.
        gain: [61] mean over seeds, reward less the reference's.
        low, high: [61] 95 % bootstrap band over seeds; None: one seed.
    """

    kl: tuple[float, ...]
    gain: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None

    @classmethod
    def of(cls, kl: Floats, gain: Floats) -> Frontier:
        """The frontier at KLs [G] from each seed's gains [S, G]."""
        low, high = mean_interval(gain.T).T.tolist() if len(gain) > 1 else (None, None)
        return cls(tuple(kl.tolist()), tuple(gain.mean(0).tolist()), low and tuple(low), high and tuple(high))


@dataclass(frozen=True)
class Score:
    """What a method reaches in a setting. All but `points` and `best`'s validation numbers is on held-out seeds.

    Attributes:
        setting, method: whose.
        knows_reward: the method reads the true reward: a bound, no contender.
        seeds: [S] the held-out seeds.
        area: under the hull of the selected points up to `max_kl`, as a share of the optimum's; where no optimum is
            known, divided by `max_kl` instead: the mean gain, units of the reward.
        gain: of that hull at half of `max_kl`, units of the reward.
        gap: the optimum's gain less that; None where no optimum is known.
        gap_share: the gap as a share of the optimum's gain; None also where that is 0.
        points: the selected ones, by KL: those whose means over validation seeds make the hull up to `max_kl`. Empty:
            nothing beat the reference.
        best: the one with the best validation reward within `max_kl`.
        at_best: metric -> its values at `best` on the seeds where it is finite.
        trials: every trial by itself.
        sensitivity: share of the trials whose area reaches 95 % of the best trial's; None: no trial gains anything.
        frontier: that hull for a plot.
        cells: ids of the validation and the held-out cell, which all these numbers come from.
        seconds: that both took.
    """

    setting: Setting
    method: str
    knows_reward: bool
    seeds: tuple[int, ...]
    area: Estimate
    gain: Estimate
    gap: Estimate | None
    gap_share: Estimate | None
    points: tuple[Point, ...]
    best: Point | None
    at_best: Mapping[str, Estimate]
    trials: tuple[TrialScore, ...]
    sensitivity: float | None
    frontier: Frontier
    cells: tuple[str, str]
    seconds: float


@dataclass(frozen=True)
class _Measured:
    """A cell's [T, S, K] metrics as arrays, the gains over the reference's reward among them."""

    kl: Floats
    gain: Floats
    metrics: Mapping[str, Floats]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> _Measured:
        metrics = {name: np.asarray(values, dtype=np.float64) for name, values in record["metrics"].items()}
        reference = np.asarray(record["reference_reward"], dtype=np.float64)
        return cls(metrics["kl"], metrics["reward"] - reference[:, None], metrics)


def score(setting: Setting, validation: Mapping[str, Any], held_out: Mapping[str, Any]) -> tuple[Score, list[str]]:
    """A method's score in a setting, and what of its held-out cell does not count, in words.

    Args:
        setting: of both cells.
        validation, held_out: records of finished cells with the same trials and checkpoints.
    """
    chosen, measured = _Measured.of(validation), _Measured.of(held_out)
    selected = _selected(chosen, setting.max_kl)
    best = _best(chosen, setting.max_kl)
    trials, checkpoints = np.array(selected, dtype=np.intp).reshape(-1, 2).T
    kl, gain = measured.kl[trials, :, checkpoints].T, measured.gain[trials, :, checkpoints].T  # [S, selected]
    hull = upper_hull(kl, gain)
    reached = hull.at([setting.max_kl / 2])[:, 0]
    unit: Floats | float = setting.max_kl
    gap = gap_share = None
    if setting.has_optimum:
        unit = optimal_areas(held_out)
        optimal = optimal_gains(held_out, [setting.max_kl / 2])[:, 0]
        gap = Estimate.of(optimal - reached)
        gap_share = Estimate.of((optimal - reached) / optimal) if (optimal > 0).all() else None
    areas = (upper_hull(measured.kl, measured.gain).area(setting.max_kl) / unit).mean(-1)  # [T]
    grid = np.linspace(0.0, setting.max_kl, NUM_GRID)
    found = Score(
        setting=setting,
        method=held_out["method"],
        knows_reward=held_out["knows_reward"],
        seeds=tuple(held_out["seeds"]),
        area=Estimate.of(hull.area(setting.max_kl) / unit),
        gain=Estimate.of(reached),
        gap=gap,
        gap_share=gap_share,
        points=tuple(_point(place, held_out, chosen, measured) for place in selected),
        best=None if best is None else _point(best, held_out, chosen, measured),
        at_best={} if best is None else _metrics_at(best, measured),
        trials=tuple(
            TrialScore(given, area, index in trials)
            for index, (given, area) in enumerate(zip(held_out["trials"], areas.tolist(), strict=True))
        ),
        sensitivity=float((areas >= NEARLY * areas.max()).mean()) if areas.max() > 0 else None,
        frontier=Frontier.of(grid, hull.at(grid)),
        cells=(validation["cell"], held_out["cell"]),
        seconds=validation["seconds"] + held_out["seconds"],
    )
    lost = (~np.isfinite(kl + gain)).sum(-1).tolist()
    notes = [
        f"{count} of its {len(selected)} selected points are not finite on seed {seed} and do not count there"
        for seed, count in zip(held_out["seeds"], lost, strict=True)
        if count
    ]
    return found, notes


def optimal_gains(record: Mapping[str, Any], kl: ArrayLike) -> Floats:
    """[S, G] what the optimum gains over the reference at KLs [G], from a record that has an optimum."""
    gains = np.asarray(record["optimum"]["reward"]) - np.asarray(record["reference_reward"])[:, None]
    return np.stack([np.interp(np.asarray(kl), record["optimum"]["kl"], own) for own in gains])


def optimal_areas(record: Mapping[str, Any]) -> Floats:
    """[S] the area under the optimum's gains, from a record that has an optimum."""
    kl = record["optimum"]["kl"]
    return np.asarray(trapezoid(optimal_gains(record, kl), kl), dtype=np.float64)


def _means(cell: _Measured) -> tuple[Floats, Floats]:
    """[T, K] mean KL and gain over seeds; NaN for a point that diverged on any of them, so that luck selects none."""
    return cell.kl.mean(1), cell.gain.mean(1)


def _selected(validation: _Measured, max_kl: float) -> list[tuple[int, int]]:
    """The (trial, checkpoint) pairs that make the validation area: the hull's vertices, by KL.

    An edge that crosses `max_kl` counts up to there, so the point at its far end is one of them.
    """
    kl, gain = _means(validation)
    hull = upper_hull(kl.ravel(), gain.ravel())
    starts = np.concatenate([[0.0], hull.kl[:-1]])  # of the edge that leads to each vertex
    points = hull.point[(hull.point >= 0) & (starts < max_kl)]
    return [divmod(point, kl.shape[1]) for point in points.tolist()]


def _best(validation: _Measured, max_kl: float) -> tuple[int, int] | None:
    """The (trial, checkpoint) of the best mean reward within `max_kl`; None: nothing beat the reference."""
    kl, gain = _means(validation)
    within = np.where((kl <= max_kl) & np.isfinite(gain), gain, -np.inf)
    place = int(within.argmax())
    return divmod(place, kl.shape[1]) if within.flat[place] > 0 else None


def _point(place: tuple[int, int], record: Mapping[str, Any], validation: _Measured, held_out: _Measured) -> Point:
    trial, checkpoint = place
    kl, gain = held_out.kl[trial, :, checkpoint], held_out.gain[trial, :, checkpoint]
    there = np.isfinite(kl + gain)
    return Point(
        trial,
        record["steps"][checkpoint] if held_out.kl.shape[2] == len(record["steps"]) else 0,
        record["trials"][trial],
        *(float(means[place]) for means in _means(validation)),
        *(float(values[there].mean()) if there.any() else None for values in (kl, gain)),
    )


def _metrics_at(place: tuple[int, int], held_out: _Measured) -> dict[str, Estimate]:
    trial, checkpoint = place
    values = {name: metric[trial, :, checkpoint] for name, metric in held_out.metrics.items()}
    return {name: Estimate.of(own[np.isfinite(own)]) for name, own in values.items() if np.isfinite(own).any()}
