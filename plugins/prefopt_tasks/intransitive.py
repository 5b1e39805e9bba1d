"""Preferences that go round in circles."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

import prefopt
from prefopt.worlds import Rows, World, judge_pairs

_CIRCLE = 11  # a stream of random numbers that no world uses


class Intransitive(prefopt.Task):
    """Intransitive preferences: judged by the win rate against the reference, and by exploitability."""

    name = "intransitive"
    knobs = {
        **World.knobs,
        "cycles": prefopt.Knob(2.0, "strength of the part of preferences that no reward explains, nats", ge=0),
    }

    def build(self, seed: int, *, cycles: float, **knobs: Any) -> World:
        """A world whose reward is the chance to win against a completion of the reference."""
        world = World.draw(seed, **knobs)
        first, second = torch.from_numpy(np.random.default_rng((seed, _CIRCLE)).normal(size=(2, *world.reward.shape)))
        # Each completion has a place in the plane; who stands to the left of another, seen from the middle, wins.
        turn = first[:, :, None] * second[:, None, :] - second[:, :, None] * first[:, None, :]
        preference = (world.reward[:, :, None] - world.reward[:, None, :] + cycles * turn).sigmoid()
        wins = torch.einsum("pij,pj->pi", preference, world.logps.exp())

        def sampler(generator: np.random.Generator, num_rows: int) -> Rows:
            return judge_pairs(generator, num_rows, world.logps, preference)

        return dataclasses.replace(world, reward=wins, preference=preference, sampler=sampler)


@prefopt.hookimpl
def prefopt_register_tasks() -> list[type[prefopt.Task]]:
    """Registers `intransitive`."""
    return [Intransitive]
