"""Preferences that hardly ever contradict the reward."""

from __future__ import annotations

from typing import Any

import prefopt
from prefopt.worlds import World


class NearDeterministic(prefopt.Task):
    """Near-deterministic preferences: the better completion nearly always wins (the case for IPO)."""

    name = "near_deterministic"
    knobs = {
        **World.knobs,
        "sharpness": prefopt.Knob(10.0, "by what the reward is multiplied before annotators compare", gt=0),
    }

    def build(self, seed: int, *, sharpness: float, **knobs: Any) -> World:
        """The well-specified world, its annotators nearly infallible."""
        world = World.draw(seed, **knobs)
        return world.annotated(utility=sharpness * world.reward)


@prefopt.hookimpl
def prefopt_register_tasks() -> list[type[prefopt.Task]]:
    """Registers `near_deterministic`."""
    return [NearDeterministic]
