"""Hyper-parameters far from where anybody would search."""

from __future__ import annotations

from prefopt.docstrings import hyperparameters
from prefopt.weighted import Objective, WeightedSum


def settings_advice(loss: Objective) -> list[str]:
    """A sentence for every hyper-parameter outside the range that the loss declares worth searching (`tune`).

    A 0 that the field allows is left alone: whoever writes it switches a term off.
    """
    parts = [part for _, part in loss.parts] if isinstance(loss, WeightedSum) else [loss]
    told = []
    for part in parts:
        for field in hyperparameters(type(part)):
            value = getattr(part, field["name"])
            if field["tune"] is None or not value or field["tune"][0] <= value <= field["tune"][1]:
                continue
            low, high = field["tune"]
            told.append(
                f"loss {part.name}: {field['name']} = {value:g} lies outside {low:g} to {high:g}, the range worth "
                f"searching (default {field['default']})"
            )
    return told
