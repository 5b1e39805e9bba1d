"""What the page's plots draw, as plain JSON: values from the results, no colours and no layout."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from prefopt.bench.report import wording
from prefopt.bench.results import Board, Frontier, Results, Score, Setting

_NUM_BEST_SHOWN = 4


def figures(results: Results, landmarks: Collection[str] = ()) -> dict[str, Any]:
    """Everything the plots need.

    Args:
        results: of the benchmark.
        landmarks: methods whose curves are visible from the start, beside the best few and the bounds.

    Returns:
        `bounds`: the methods that read the true reward; `settings`: the curves, points and trials of every method
        there; `heat_map`: None without a leaderboard.
    """
    bounds = {score.method for score in results.scores.values() if score.knows_reward}
    return {
        "bounds": sorted(bounds),
        "settings": [_setting(results, setting, landmarks) for setting in results.settings],
        "heat_map": None if results.leaderboard is None else _heat_map(results, results.leaderboard),
    }


def _setting(results: Results, setting: Setting, landmarks: Collection[str]) -> dict[str, Any]:
    board = results.boards[setting]
    optimum = results.optima.get(setting)
    rows = sorted(board.rows, key=lambda row: row.knows_reward)
    scores = {row.method: results.scores[setting, row.method] for row in rows}
    return {
        "label": setting.label,
        "max_kl": setting.max_kl,
        "has_optimum": setting.has_optimum,
        "kl": _short(next(iter(scores.values())).frontier.kl),  # the grid of all frontiers here
        "optimum": None if optimum is None else _frontier(optimum),
        "shown": _shown(board, landmarks),
        "scores": {method: _score(score) for method, score in scores.items()},
    }


def _shown(board: Board, landmarks: Collection[str]) -> list[str]:
    best = [row.method for row in board.rows if not row.knows_reward][:_NUM_BEST_SHOWN]
    return [row.method for row in board.rows if row.knows_reward or row.method in (*best, *landmarks)]


def _score(score: Score) -> dict[str, Any]:
    names = list(dict.fromkeys(name for trial in score.trials for name in trial.hyperparameters))
    points = [point for point in score.points if point.kl is not None and point.gain is not None]
    return {
        "area": wording.number(score.area.mean),
        "frontier": _frontier(score.frontier),
        "points": {
            "kl": _short(point.kl for point in points),
            "gain": _short(point.gain for point in points),
            "trial": [point.trial for point in points],
            "step": [point.step for point in points],
        },
        "trials": {
            "area": _short(trial.area for trial in score.trials),
            "selected": [trial.selected for trial in score.trials],
            "text": [wording.hyperparameters(trial.hyperparameters) for trial in score.trials],
            "values": {name: _short(trial.hyperparameters.get(name) for trial in score.trials) for name in names},
        },
        "cells": score.cells,
    }


def _frontier(frontier: Frontier) -> dict[str, Any]:
    low, high = frontier.low, frontier.high
    return {"gain": _short(frontier.gain), "low": low and _short(low), "high": high and _short(high)}


def _short(values: Iterable[float | None]) -> list[float | None]:
    return [None if value is None else float(f"{value:.4g}") for value in values]  # as fine as a screen


def _heat_map(results: Results, board: Board) -> dict[str, Any]:
    columns = [setting for setting in results.settings if setting.has_optimum]
    placed = [row.method for row in board.rows]
    methods = [*placed, *(name for name in results.methods if name not in placed and _meant(results, name, columns))]
    return {
        "methods": methods,
        "settings": [setting.label for setting in columns],
        "cells": [[_heat_cell(results, setting, method) for setting in columns] for method in methods],
    }


def _meant(results: Results, method: str, settings: Sequence[Setting]) -> bool:
    tasks = {setting.task for setting in settings}
    return any(found.method == method and found.task in tasks for found in results.failed)


def _heat_cell(results: Results, setting: Setting, method: str) -> dict[str, Any]:
    score = results.scores.get((setting, method))
    if score is not None:
        text = f"{wording.number(score.area.mean)} {wording.brackets(score.area)}".rstrip()
        return {"area": score.area.mean, "text": text, "cells": score.cells}
    for found in (*results.failed, *results.missing):
        if (found.task, found.method) == (setting.task, method) and tuple(sorted(found.knobs.items())) == setting.knobs:
            failed = found in results.failed
            return {"area": None, "failed": failed, "text": found.reason, "cells": [found.cell]}
    return {"area": None, "failed": False, "text": "not run", "cells": []}
