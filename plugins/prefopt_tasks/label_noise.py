"""Annotators who err."""

from __future__ import annotations

from typing import Any

import prefopt
from prefopt.worlds import World


class LabelNoise(prefopt.Task):
    """Label noise: a share of the pairs is turned upside down, whatever the reward says."""

    name = "label_noise"
    knobs = {**World.knobs, "noise": prefopt.Knob(0.2, "share of pairs turned upside down", ge=0, lt=0.5)}

    def build(self, seed: int, *, noise: float, **knobs: Any) -> World:
        """The well-specified world, its annotators confused."""
        return World.draw(seed, **knobs).annotated(flipped=noise)


@prefopt.hookimpl
def prefopt_register_tasks() -> list[type[prefopt.Task]]:
    """Registers `label_noise`."""
    return [LabelNoise]
