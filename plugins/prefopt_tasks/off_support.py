"""Pairs that another policy wrote."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import prefopt
from prefopt.worlds import World

_DRIFT = 10  # a stream of random numbers that no world uses


class OffSupport(prefopt.Task):
    """Off-support pairs: the completions come from another policy than the reference."""

    name = "off_support"
    knobs = {
        **World.knobs,
        "distance": prefopt.Knob(2.0, "deviation of the other policy's logits from the reference's, nats", ge=0),
    }

    def build(self, seed: int, *, distance: float, **knobs: Any) -> World:
        """The well-specified world, its pairs written by a policy that drifted away."""
        world = World.draw(seed, **knobs)
        drift = np.random.default_rng((seed, _DRIFT)).normal(scale=distance, size=world.reference.shape)
        writer = world.tree.next_token_logps(world.reference + torch.from_numpy(drift))
        return world.annotated(behaviour=world.tree.logps(writer))


@prefopt.hookimpl
def prefopt_register_tasks() -> list[type[prefopt.Task]]:
    """Registers `off_support`."""
    return [OffSupport]
