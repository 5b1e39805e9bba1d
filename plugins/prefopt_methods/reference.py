"""The reference itself."""

from collections.abc import Sequence

from torch import Tensor

import prefopt
from prefopt.worlds import Worlds


class Reference(prefopt.Method):
    """The reference as it is: what every method starts from."""

    name = "reference"

    def policies(self, trials: Sequence[prefopt.Trial], worlds: Worlds, budget: prefopt.Budget) -> Tensor:
        """The same for every trial, [T, S, 1, P, C]."""
        return worlds.logps[None, :, None].expand(len(trials), -1, -1, -1, -1)


@prefopt.hookimpl
def prefopt_register_methods() -> list[type[prefopt.Method]]:
    """Registers `reference`."""
    return [Reference]
