"""Best-of-N by a reward that is learnt."""

from collections.abc import Sequence

from torch import Tensor

import prefopt
from prefopt.worlds import Worlds
from prefopt_methods.best_of_n import best_of
from prefopt_methods.reward_model import learnt_reward


class BestOfNRewardModel(prefopt.Method):
    """Best-of-N by a reward model learnt from the rows: the exact distribution of the best of n draws by it.

    Args:
        n: draws for each completion, >= 1, as in `best_of_n`.

    Source:
        Stiennon, Ouyang, Wu, Ziegler, Lowe, Voss, Radford, Amodei, Christiano: Learning to summarize from human
        feedback, 2020, arXiv 2009.01325.
    """

    name = "best_of_n_reward_model"
    tune = {"n": (1.0, 128.0)}

    def policies(self, trials: Sequence[prefopt.Trial], worlds: Worlds, budget: prefopt.Budget) -> Tensor:
        """One policy a trial, [T, S, 1, P, C]."""
        return best_of(worlds.logps, learnt_reward(worlds), trials)


@prefopt.hookimpl
def prefopt_register_methods() -> list[type[prefopt.Method]]:
    """Registers `best_of_n_reward_model`."""
    return [BestOfNRewardModel]
