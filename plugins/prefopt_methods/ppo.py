"""The standard pipeline: a reward model, then PPO."""

from collections.abc import Sequence

from torch import Tensor

import prefopt
from prefopt.worlds import LEARNING_RATES, Worlds
from prefopt_methods.clipped_policy_gradient import train
from prefopt_methods.reward_model import learnt_reward


class PPO(prefopt.Method):
    """The standard pipeline: a reward model learnt from the rows, then PPO on it with a KL penalty.

    Args:
        learning_rate: of the policy.
        beta: strength of the pull towards the reference, in standard deviations of the learnt reward.

    Source:
        Schulman, Wolski, Dhariwal, Radford, Klimov: Proximal Policy Optimization Algorithms, 2017, arXiv 1707.06347,
        equation 7; as used by Stiennon and others: Learning to summarize from human feedback, 2020, arXiv 2009.01325.
    """

    name = "ppo"
    tune = {"learning_rate": LEARNING_RATES, "beta": (0.1, 3.0)}

    def policies(self, trials: Sequence[prefopt.Trial], worlds: Worlds, budget: prefopt.Budget) -> Tensor:
        """The policies at the checkpoints, [T, S, K, P, C]."""
        return train(worlds, learnt_reward(worlds), trials, budget)


@prefopt.hookimpl
def prefopt_register_methods() -> list[type[prefopt.Method]]:
    """Registers `ppo`."""
    return [PPO]
