"""Annotators who like long answers."""

from __future__ import annotations

from typing import Any

import prefopt
from prefopt.worlds import World


class LengthBias(prefopt.Task):
    """Length-biased preferences: annotators add something for every token, which the true reward does not."""

    name = "length_bias"
    knobs = {**World.knobs, "bias": prefopt.Knob(0.5, "what annotators add for a token, nats", ge=0)}

    def build(self, seed: int, *, bias: float, **knobs: Any) -> World:
        """The well-specified world, its annotators biased."""
        world = World.draw(seed, **knobs)
        return world.annotated(utility=world.reward + bias * world.tree.lengths)


@prefopt.hookimpl
def prefopt_register_tasks() -> list[type[prefopt.Task]]:
    """Registers `length_bias`."""
    return [LengthBias]
