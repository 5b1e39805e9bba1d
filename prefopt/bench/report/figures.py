"""What the page's plots draw, as plain JSON: values from the results, no colours and no layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefopt.bench.report import wording
from prefopt.bench.results import Board, Frontier, Point, Results, Score, Setting

_ALWAYS_SHOWN = ("dpo", "sft")
_NUM_BEST_SHOWN = 4


def figures(results: Results) -> dict[str, Any]:
    """Everything the plots need.

    Returns:
        `methods` in the order in which they take colours, `bounds` among them, `settings` with the curves and points
        of each, and `heat_map` (None without a leaderboard).
    """
    bounds = {score.method for score in results.scores.values() if score.knows_reward}
    return {
        "methods": _order(results),
        "bounds": sorted(bounds),
        "settings": [_setting(results, setting) for setting in results.settings],
        "heat_map": None if results.leaderboard is None else _heat_map(results, results.leaderboard),
    }


def _order(results: Results) -> list[str]:
    placed = [row.method for row in results.leaderboard.rows] if results.leaderboard else []
    known = [name for name in _ALWAYS_SHOWN if name in results.methods]
    return list(dict.fromkeys([*known, *placed, *results.methods]))


def _setting(results: Results, setting: Setting) -> dict[str, Any]:
    board = results.boards[setting]
    optimum = results.optima.get(setting)
    scores = {row.method: results.scores[setting, row.method] for row in board.rows}
    return {
        "label": setting.label,
        "max_kl": setting.max_kl,
        "has_optimum": setting.has_optimum,
        "optimum": None if optimum is None else _frontier(optimum),
        "shown": _shown(board),
        "scores": {method: _score(score) for method, score in scores.items()},
    }


def _shown(board: Board) -> list[str]:
    best = [row.method for row in board.rows if not row.knows_reward][:_NUM_BEST_SHOWN]
    return [row.method for row in board.rows if row.knows_reward or row.method in (*best, *_ALWAYS_SHOWN)]


def _score(score: Score) -> dict[str, Any]:
    return {
        "area": wording.number(score.area.mean),
        "frontier": _frontier(score.frontier),
        "points": [_point(point) for point in score.points if point.kl is not None and point.gain is not None],
        "trials": [
            {"area": _short(trial.area), "selected": trial.selected, "hyperparameters": trial.hyperparameters}
            for trial in score.trials
        ],
        "cells": score.cells,
    }


def _point(point: Point) -> dict[str, Any]:
    return {
        "kl": point.kl,
        "gain": point.gain,
        "trial": f"trial {point.trial}, step {point.step}",
        "hyperparameters": wording.hyperparameters(point.hyperparameters),
    }


def _frontier(frontier: Frontier) -> dict[str, Any]:
    curves = {"kl": frontier.kl, "gain": frontier.gain, "low": frontier.low, "high": frontier.high}
    return {name: None if curve is None else [_short(value) for value in curve] for name, curve in curves.items()}


def _short(value: float) -> float:
    return float(f"{value:.5g}")  # beyond what a screen shows; it halves the page


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
        return {"area": _short(score.area.mean), "text": text, "cells": score.cells}
    for found in (*results.failed, *results.missing):
        if (found.task, found.method) == (setting.task, method) and tuple(sorted(found.knobs.items())) == setting.knobs:
            failed = found in results.failed
            return {"area": None, "failed": failed, "text": found.reason, "cells": [found.cell]}
    return {"area": None, "failed": False, "text": "not run", "cells": []}
