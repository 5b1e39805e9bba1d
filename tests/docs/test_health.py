"""What docs/health.md says of losses and thresholds is true."""

from __future__ import annotations

import math
import re
from pathlib import Path

import prefopt
from prefopt.advice import learning_rate, lengths
from prefopt.docstrings import rates_in_words
from prefopt.training import health

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "health.md").read_text(encoding="utf-8")
LOSSES = {
    name: loss
    for name, loss in sorted(prefopt.load_registry().losses.items())
    if loss.__module__.startswith("prefopt_losses.")
}


def table(name):
    (found,) = re.findall(rf"<!-- tested: {name} -->\n\|.*?\n\|[-|]*\n((?:\|.*\n)*)", TEXT)
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in found.splitlines()]


def test_the_losses_that_keep_length_out_are_listed():
    assert table("on_length") == [(f"`{name}`", loss.on_length) for name, loss in LOSSES.items() if loss.on_length]


def test_the_published_learning_rates_are_listed():
    rates = {name: loss.learning_rates for name, loss in LOSSES.items() if loss.learning_rates}
    assert table("learning_rates") == [(f"`{name}`", rates_in_words(pair)) for name, pair in rates.items()]


def test_the_thresholds_are_those_of_the_code():
    told = {what: numbers(when) for what, when, _ in table("thresholds")}
    assert told == {
        "saturated": [health.MOSTLY, 1],
        "far from the reference": [health.FAR],
        "displaced": [health.FALLEN],
        "language lost": [health.LOST],
        "rising": [health.CERTAIN, health.RISEN],
        "spike": [health.SPIKE, health.WINDOW, health.WINDOW],
    }
    assert f"before {health.WINDOW} steps" in TEXT
    assert f"above {lengths.SUSPICIOUS}" in TEXT
    assert f"than {lengths.NUM_READ:,} rows" in TEXT
    assert f"than {learning_rate.PUBLISHED_WIDTH:,}" in TEXT
    assert learning_rate.SLACK == learning_rate.ADAPTER_FACTOR == 10


def test_the_factors_are_what_the_thresholds_mean():
    why = {what: reason for what, _, reason in table("thresholds")}
    assert "28 %" in why["displaced"]
    assert round(100 * (math.exp(health.FALLEN) - 1)) == 28
    assert "20 times" in why["language lost"]
    assert round(math.exp(health.LOST)) == 20
    assert "seven times" in why["far from the reference"]
    assert round(math.exp((2 * health.FAR) ** 0.5)) == 7


def numbers(text):
    return [float(found) for found in re.findall(r"\d+(?:\.\d+)?", text)]
