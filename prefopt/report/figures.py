"""What the page's plots draw, as plain JSON: values from the files, no colours and no layout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from statistics import fmean
from typing import Any

from prefopt.report.panels import Panel, panels
from prefopt.report.reading import Run

MAX_POINTS = 2000
"""Points of a line; a longer run shows the mean of as many neighbouring steps as it takes."""


def figures(runs: Sequence[Run]) -> dict[str, Any]:
    """Everything the plots need: `runs` with their values, and `panels` that say which to draw where."""
    shown = panels(runs)
    return {"runs": [_run(run, shown) for run in runs], "panels": [_panel(panel) for panel in shown]}


def steps_a_point(run: Run) -> int:
    """How many steps each point of its lines is the mean of."""
    return math.ceil(len(run.steps) / MAX_POINTS)


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "title": panel.title,
        "unit": panel.unit,
        "lines": [{"key": name, "side": side} for name, side in panel.lines],
        "held_out": panel.held_out,
        "ends": panel.ends,
        "scale": panel.scale,
        "noisy": panel.noisy,
    }


def _run(run: Run, shown: Sequence[Panel]) -> dict[str, Any]:
    size = steps_a_point(run)
    parts = [run.steps[start : start + size] for start in range(0, len(run.steps), size)]
    names = {name for panel in shown if not panel.held_out for name, _ in panel.lines}
    held_out = run.held_out
    evaluated = {name for panel in shown if panel.held_out for name, _ in panel.lines}
    lines = {name: _short(_mean(part, name) for part in parts) for name in sorted(names)}
    return {
        "label": run.label,
        "x": {key: [values[part[-1]["step"]] for part in parts] for key, values in _axes(run).items()},
        "lines": {name: values for name, values in lines.items() if any(value is not None for value in values)},
        "held_out": {
            "x": {key: [values[step] for step, _ in held_out] for key, values in _axes(run).items()},
            "lines": {
                name: {
                    "y": _short(_number(values.get(name)) for _, values in held_out),
                    "interval": [values.get(f"{name}_interval") for _, values in held_out],
                }
                for name in sorted(evaluated)
                if any(_number(values.get(name)) is not None for _, values in held_out)
            },
        },
    }


def _axes(run: Run) -> dict[str, dict[int, float]]:
    """Where each step stands: its number, the rows and the seconds of training up to its end. Step 0 is the start."""
    numbers = [step["step"] for step in run.steps]
    first = numbers[0] - 1
    rows = accumulate((step.get("num_rows") or 0 for step in run.steps), initial=0)
    seconds = accumulate((step.get("step_seconds") or 0.0 for step in run.steps), initial=0.0)
    places = [first, *numbers]
    found: dict[str, dict[int, float]] = {
        "step": {place: place for place in places},
        "rows": dict(zip(places, rows, strict=True)),
        "seconds": {place: round(second, 2) for place, second in zip(places, seconds, strict=True)},
    }
    for axis in found.values():
        axis.setdefault(0, 0)
    return found


def _mean(steps: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [value for step in steps if (value := _number(step.get(name))) is not None]
    return fmean(values) if values else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _short(values: Any) -> list[float | None]:
    return [None if value is None else float(f"{value:.5g}") for value in values]  # finer than a screen
