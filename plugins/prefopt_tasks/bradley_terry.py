"""Everything as the theory has it."""

from __future__ import annotations

from typing import Any

import prefopt
from prefopt.worlds import World


class BradleyTerry(prefopt.Task):
    """Well specified: pairs of the reference's own completions, preferred by the model of Bradley and Terry."""

    name = "bradley_terry"
    knobs = World.knobs

    def build(self, seed: int, **knobs: Any) -> World:
        """A world as `World.draw` makes it."""
        return World.draw(seed, **knobs)


@prefopt.hookimpl
def prefopt_register_tasks() -> list[type[prefopt.Task]]:
    """Registers `bradley_terry`."""
    return [BradleyTerry]
