"""Thumbs up and down, one of them rare."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

import prefopt
from prefopt.worlds import Rows, World, label_rows


class ImbalancedLabels(prefopt.Task):
    """Imbalanced labels: single completions with a thumb up or down, one of them rare (the case for KTO)."""

    name = "imbalanced_labels"
    knobs = {**World.knobs, "desirable": prefopt.Knob(0.1, "share of thumbs up", gt=0, lt=1)}

    def build(self, seed: int, *, desirable: float, **knobs: Any) -> World:
        """The well-specified world, its annotators judging one completion at a time."""
        world = World.draw(seed, **knobs)

        def sampler(generator: np.random.Generator, num_rows: int) -> Rows:
            return label_rows(generator, num_rows, world.logps, world.reward, desirable=desirable)

        return dataclasses.replace(world, sampler=sampler)


@prefopt.hookimpl
def prefopt_register_tasks() -> list[type[prefopt.Task]]:
    """Registers `imbalanced_labels`."""
    return [ImbalancedLabels]
