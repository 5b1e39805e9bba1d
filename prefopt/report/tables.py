"""The tables of the report, once: the page and the terminal show these same texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from prefopt.report.reading import Run

TAIL = 10
"""One part in so many of the steps, the last ones, is what a number at the end is the mean of."""


@dataclass(frozen=True)
class Line:
    """One quantity or setting, a text for each run; empty: the run has none."""

    name: str
    texts: tuple[str, ...]
    explanation: str = ""


_AT_THE_END = (
    ("loss", "loss", "loss"),
    ("reward accuracy", "reward_accuracy", "share"),
    ("reward margin", "reward_margin", "signed"),
    ("chosen reward", "chosen_reward", "signed"),
    ("rejected reward", "rejected_reward", "signed"),
    ("KL a token", "kl_per_token", "small"),
    ("chosen log-ratio", "chosen_log_ratio", "signed"),
    ("rejected log-ratio", "rejected_log_ratio", "signed"),
    ("saturated rows", "saturated", "share"),
    ("gradient norm", "grad_norm", "small"),
    ("tokens a second", "tokens_per_second", "whole"),
)


def progress(run: Run) -> str:
    """The steps it has taken, and of how many.

    >>> from pathlib import Path
    >>> progress(Run("a", Path(), ({"step": 3},), {"training": {"max_steps": 9}}, None, None, ()))
    '3 of 9, not finished'
    """
    taken = run.steps[-1]["step"]
    planned = run.num_planned
    of = f" of {planned:,}" if planned is not None and planned != taken else ""
    return f"{taken:,}{of}{'' if run.record is not None else ', not finished'}"


def summary(runs: Sequence[Run]) -> list[Line]:
    """What the runs came to; a quantity that no run has is left out."""
    lines = [
        Line("loss function", tuple(run.loss for run in runs)),
        Line("steps", tuple(map(progress, runs))),
        Line("time", tuple(map(_time, runs)), "Of the whole run; of one that is not finished, of its steps."),
        Line("peak memory", tuple(map(_memory, runs)), "Of the first process, and of its GPU where it has one."),
    ]
    for name, key, form in _AT_THE_END:
        values = [_at_the_end(run, key) for run in runs]
        lines.append(Line(name, tuple(_text(value, form) for value in values), f"Mean of the last steps, 1 in {TAIL}."))
    lines += _held_out(runs)
    lines += _evaluated(runs)
    return [line for line in lines if any(line.texts)]


def differences(runs: Sequence[Run]) -> list[Line]:
    """The settings in which the runs differ, `output_dir` left out."""
    settings = [_flat(run.config) for run in runs]
    names = dict.fromkeys(name for each in settings for name in each)
    lines = []
    for name in names:
        texts = tuple(each.get(name, "") for each in settings)
        if name != "output_dir" and len(set(texts)) > 1:
            lines.append(Line(name, texts))
    return lines


def different_units(runs: Sequence[Run]) -> bool:
    """Whether rewards and losses of the runs are in different units: their losses, or settings of these, differ."""
    return len({str(run.config.get("loss") or run.loss) for run in runs}) > 1


def _held_out(runs: Sequence[Run]) -> list[Line]:
    ends = [run.held_out[-1][1] if run.held_out else {} for run in runs]
    at = "On held-out rows, at the last evaluation."

    def accuracy(values: Mapping[str, Any]) -> str:
        text = _text(values.get("reward_accuracy"), "share")
        interval = values.get("reward_accuracy_interval")
        return f"{text} [{_text(interval[0], 'share')}, {_text(interval[1], 'share')}]" if text and interval else text

    return [
        Line("held-out loss", tuple(_text(values.get("loss"), "loss") for values in ends), at),
        Line("held-out accuracy", tuple(map(accuracy, ends)), f"{at} In brackets 95 % Wilson intervals."),
        Line("held-out margin", tuple(_text(values.get("reward_margin"), "signed") for values in ends), at),
    ]


_EVALUATED = {
    "evaluated accuracy": ("held_out", "reward_accuracy"),
    "evaluated margin": ("held_out", "margins", "mean"),
    "calibration error": ("held_out", "calibration", "expected_error"),
    "chosen log-ratio": ("displacement", "chosen", "log_ratio", "mean"),
    "KL a token, on the data": ("kl", "data", "per_token", "mean"),
    "KL a token, own answers": ("kl", "sampled", "per_token", "mean"),
    "win rate": ("win_rate", "rate"),
}


def _evaluated(runs: Sequence[Run]) -> list[Line]:
    """The main numbers of evaluation.json."""
    return [
        Line(
            name,
            tuple(_text(_number_at(run.evaluation, path), "small") for run in runs),
            f"{'.'.join(path)} of evaluation.json, which `prefopt evaluate` writes.",
        )
        for name, path in _EVALUATED.items()
    ]


def _number_at(values: Any, path: Sequence[str]) -> float | None:
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values if isinstance(values, int | float) and not isinstance(values, bool) else None


def _at_the_end(run: Run, key: str) -> float | None:
    last = run.steps[-max(1, len(run.steps) // TAIL) :]
    values = [step[key] for step in last if isinstance(step.get(key), int | float)]
    return fmean(values) if values else None


def _time(run: Run) -> str:
    if run.record is not None and isinstance(run.record.get("wall_seconds"), int | float):
        return duration(run.record["wall_seconds"])
    return duration(sum(step.get("step_seconds") or 0.0 for step in run.steps))


def _memory(run: Run) -> str:
    known = (run.record or {}).get("peak_memory_bytes") or {}
    last = run.steps[-1]
    process = known.get("process") or last.get("peak_memory_bytes")
    cuda = known.get("cuda") or last.get("peak_cuda_bytes")
    parts = [f"{process / 2**30:.2f} GiB"] if process else []
    return ", ".join([*parts, *([f"CUDA {cuda / 2**30:.2f} GiB"] if cuda else [])])


def _text(value: float | None, form: str) -> str:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    if form == "share":
        return f"{value:.3f}"
    if form == "whole":
        return f"{value:,.0f}"
    if form == "loss":
        return f"{value:.4f}"
    return f"{value:+.4g}" if form == "signed" and value else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours.

    >>> duration(8.25), duration(754), duration(8000)
    ('8.2 s', '12 min 34 s', '2 h 13 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _flat(values: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(values, Mapping) and values:
        items = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, list) and values and isinstance(values[0], Mapping):
        items = [(str(index), value) for index, value in enumerate(values)]
    else:
        return {prefix: _setting(values)} if prefix else {}
    found: dict[str, str] = {}
    for key, value in items:
        found |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return found


def _setting(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
