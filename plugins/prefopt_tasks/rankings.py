"""Four completions at once."""

from __future__ import annotations

import dataclasses
from typing import Any

import prefopt
from prefopt.worlds import World


class Rankings(prefopt.Task):
    """Rankings: annotators rank several completions of a prompt by the model of Plackett and Luce."""

    name = "rankings"
    knobs = {**World.knobs, "num_completions": prefopt.Knob(4, "completions that are ranked together", ge=3)}

    def build(self, seed: int, *, num_completions: int, **knobs: Any) -> World:
        """The well-specified world with rankings that expand to about as many pairs as the other tasks have rows."""
        world = World.draw(seed, **knobs)
        per_ranking = num_completions * (num_completions - 1) // 2
        num_rows = -(-world.num_rows // per_ranking)
        return dataclasses.replace(world, num_rows=num_rows).annotated(num_completions=num_completions)


@prefopt.hookimpl
def prefopt_register_tasks() -> list[type[prefopt.Task]]:
    """Registers `rankings`."""
    return [Rankings]
