"""Too little data."""

from __future__ import annotations

from typing import Any

import prefopt
from prefopt.worlds import World


class ScarcePairs(prefopt.Task):
    """Scarce pairs: a fraction of the data that the other tasks have."""

    name = "scarce_pairs"
    knobs = {**World.knobs, "num_rows": prefopt.Knob(128, "rows of training data", ge=1)}

    def build(self, seed: int, *, num_rows: int, **knobs: Any) -> World:
        """The well-specified world with few rows."""
        return World.draw(seed, num_rows=num_rows, **knobs)


@prefopt.hookimpl
def prefopt_register_tasks() -> list[type[prefopt.Task]]:
    """Registers `scarce_pairs`."""
    return [ScarcePairs]
