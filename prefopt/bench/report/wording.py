"""Numbers as text, and the sentences that the page, the Markdown and the terminal share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prefopt.bench.results import Board, Estimate, Omission, Power, Results, Row, Setting, Totals
from prefopt.errors import ConfigError
from prefopt.report.tables import duration

Record = Mapping[str, Any]


def computed(records: Iterable[Record]) -> Results:
    """What the records say.

    Raises:
        ConfigError: there are none.
    """
    kept = list(records)
    if not kept:
        raise ConfigError(
            "there is nothing to report: no cell has been recorded; `prefopt bench run SUITE` records them"
        )
    return Results.of(kept)


def number(value: float | None, places: int = 3) -> str:
    """Fixed decimals; no minus before a zero.

    >>> number(-0.0004), number(None)
    ('0.000', '')
    """
    return "" if value is None else f"{round(value, places) + 0.0:.{places}f}"


def signed(value: float | None, places: int = 3) -> str:
    """Fixed decimals with the sign.

    >>> signed(0.25), signed(-0.0004)
    ('+0.250', '0.000')
    """
    text = number(value, places)
    return f"+{text}" if value is not None and round(value, places) > 0 else text


def percent(value: float | None) -> str:
    """Whole per cent of a share.

    >>> percent(0.375)
    '38 %'
    """
    return "" if value is None else f"{100 * value:.0f} %"


def brackets(estimate: Estimate) -> str:
    """The interval; empty where one seed gives none."""
    if estimate.interval is None:
        return ""
    low, high = estimate.interval
    return f"[{number(low)}, {number(high)}]"


def p_value(value: float) -> str:
    """A p-value as papers print it.

    >>> p_value(0.00002), p_value(0.0312)
    ('p < 0.001', 'p = 0.031')
    """
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def against_best(row: Row, board: Board) -> str:
    """What the comparison with the best contender found."""
    if row.knows_reward:
        return "bound"
    if row.method == board.best:
        return "best"
    if row.difference is None or row.p_holm is None:
        return "not compared"
    if row.tied:
        return f"no difference found, {p_value(row.p_holm)}"
    return f"{signed(row.difference.mean)}, {p_value(row.p_holm)}"


def hyperparameters(values: Mapping[str, float]) -> str:
    """Name and value, in the order of the trial.

    >>> hyperparameters({"learning_rate": 0.0312345, "beta": 0.1})
    'learning_rate=0.03123 beta=0.1'
    """
    return " ".join(f"{name}={value:.4g}" for name, value in values.items())


def settings_in_words(values: Mapping[str, Any]) -> str:
    """Knobs, by name."""
    return " ".join(f"{name}={value}" for name, value in sorted(values.items()))


def verdict(board: Board) -> str:
    """Who is best, and between which methods no difference was found."""
    if board.best is None:
        return "No contender has run on all of it, so none is called the best."
    tied = [row.method for row in board.rows if row.tied and row.method != board.best]
    if tied:
        return f"{board.best} has the largest area; between it and {_listed(tied)} no difference was found."
    others = [row for row in board.rows if row.p_holm is not None]
    if not others:
        return f"{board.best} has the largest area, but nothing to be tested against."
    return f"{board.best} has the largest area, and every other contender is significantly behind it."


def power(found: Power | None) -> str:
    """What this many seeds could have seen."""
    if found is None:
        return "With fewer than two seeds or contenders no difference can be tested."
    return (
        f"With {counted(found.num_seeds, 'seed')} a true difference of {number(found.smallest)} from the best would "
        f"have been found 4 times in 5, and one of {number(found.smallest_holm)} at the strictest step of Holm's "
        f"correction ({counted(found.num_comparisons, 'comparison')})."
    )


def how_to_read(totals: Totals, settings: Iterable[Setting]) -> str:
    """The paragraph before all tables."""
    ranges = sorted({setting.max_kl for setting in settings})
    upper = f"{ranges[0]:g}" if len(ranges) == 1 else "the task's largest KL in"
    return (
        f"Every method gets the same number of trials, settings of its hyper-parameters and the learning rate: "
        f"{totals.num_trials} here. On {counted(totals.num_validation_seeds, 'validation seed')} the points (a trial "
        f"at a checkpoint) on the upper hull of reward against KL are selected; what is reported is how those points "
        f"do on {counted(totals.num_held_out_seeds, 'held-out seed')} that selection never saw. The area ratio is the "
        f"area under the hull of reward above the reference's against KL(policy || reference), from 0 to {upper} nats, "
        f"over the area under the frontier nobody can beat, which is known exactly: the reference has 0, the optimum "
        f"1. Brackets are 95 % bootstrap intervals over held-out seeds. Every contender is compared with the best one "
        f"by a paired t-test over seeds, corrected by Holm's method for the number of comparisons; p >= 0.05 reads "
        f'"no difference found", which does not mean that there is none.'
    )


def facts(results: Results) -> dict[str, str]:
    """What ran, when, with what and for how long."""
    totals = results.totals
    found = {
        "suite": ", ".join(totals.suites),
        "ran": _span(totals),
        "cells": f"{totals.num_done} done, {totals.num_failed} failed",
        "methods": f"{len(results.methods)} on {counted(len(results.settings), 'task setting')}",
        "seeds": f"{totals.num_validation_seeds} validation, {totals.num_held_out_seeds} held-out",
        "trials": f"{totals.num_trials} a method",
        "computing": duration(totals.seconds),
        "commit": ", ".join(totals.commits),
    }
    if len(totals.commits) > 1:
        found["commit"] += " (cells of different commits stand side by side)"
    return found | {name: ", ".join(seen) for name, seen in totals.versions.items()}


def omission(found: Omission, results: Results, *, with_split: bool = True) -> str:
    """A cell that is not in the numbers, and why."""
    knobs = tuple(sorted(found.knobs.items()))
    labels = [setting.label for setting in results.settings if (setting.task, setting.knobs) == (found.task, knobs)]
    place = labels[0] if labels else f"{found.task} {settings_in_words(found.knobs)}".rstrip()
    return f"{place}, {found.method}{f', {found.split}' if with_split else ''}: {found.reason}"


def counted(num: int, noun: str) -> str:
    """A count and its noun.

    >>> counted(1, "seed"), counted(5, "seed")
    ('1 seed', '5 seeds')
    """
    return f"{num} {noun}{'' if num == 1 else 's'}"


def _span(totals: Totals) -> str:
    days = [moment[:16].replace("T", " ") for moment in (totals.first, totals.last) if moment]
    return " to ".join(dict.fromkeys(days)) or "unknown"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
