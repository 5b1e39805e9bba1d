"""A reference that seldom writes what is good."""

from __future__ import annotations

from typing import Any

import prefopt
from prefopt.worlds import World


class WeakReference(prefopt.Task):
    """Weak reference: it puts little mass on good completions, so that the data hold few of them."""

    name = "weak_reference"
    knobs = {
        **World.knobs,
        "tilt": prefopt.Knob(1.0, "how far the reference is tilted against the reward, 1 / nats", ge=0),
    }

    def build(self, seed: int, *, tilt: float, **knobs: Any) -> World:
        """A world whose reference is the well-specified one times exp(-tilt reward), its reward scaled anew."""
        world = World.draw(seed, **knobs)
        tilted = world.tree.as_next_token_logps(world.logps - tilt * world.reward)
        return world.referred(tilted).annotated()


@prefopt.hookimpl
def prefopt_register_tasks() -> list[type[prefopt.Task]]:
    """Registers `weak_reference`."""
    return [WeakReference]
