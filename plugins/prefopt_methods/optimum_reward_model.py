"""What PPO on a reward that is learnt would end at."""

from collections.abc import Sequence

from torch import Tensor

import prefopt
from prefopt.worlds import Worlds
from prefopt_methods.optimum import optima
from prefopt_methods.reward_model import learnt_reward


class OptimumRewardModel(prefopt.Method):
    """The exact optimum on a reward model learnt from the rows: where PPO would end, did it optimise without error.

    Args:
        beta: strength of the pull towards the reference, in standard deviations of the learnt reward.

    Source:
        Rafailov, Sharma, Mitchell, Ermon, Manning, Finn: Direct Preference Optimization: Your Language Model is
        Secretly a Reward Model, 2023, arXiv 2305.18290, equation 4.
    """

    name = "optimum_reward_model"
    tune = {"beta": (0.1, 3.0)}

    def policies(self, trials: Sequence[prefopt.Trial], worlds: Worlds, budget: prefopt.Budget) -> Tensor:
        """One policy a trial, [T, S, 1, P, C]."""
        return optima(worlds.logps, learnt_reward(worlds), trials)


@prefopt.hookimpl
def prefopt_register_methods() -> list[type[prefopt.Method]]:
    """Registers `optimum_reward_model`."""
    return [OptimumRewardModel]
