"""PPO without a reward model's errors."""

from collections.abc import Sequence

from torch import Tensor

import prefopt
from prefopt.worlds import LEARNING_RATES, Worlds
from prefopt_methods.clipped_policy_gradient import train
from prefopt_methods.whitening import whitened


class PPOTrueReward(prefopt.Method):
    """PPO with a KL penalty on the true reward: the paper's PPO-GT, which no annotator could offer.

    Args:
        learning_rate: of the policy.
        beta: strength of the pull towards the reference, in standard deviations of the reward under the reference.

    Source:
        Schulman, Wolski, Dhariwal, Radford, Klimov: Proximal Policy Optimization Algorithms, 2017, arXiv 1707.06347,
        equation 7; as a bound: Rafailov and others, 2023, arXiv 2305.18290, section 6.
    """

    name = "ppo_true_reward"
    tune = {"learning_rate": LEARNING_RATES, "beta": (0.1, 3.0)}
    knows_reward = True

    def policies(self, trials: Sequence[prefopt.Trial], worlds: Worlds, budget: prefopt.Budget) -> Tensor:
        """The policies at the checkpoints, [T, S, K, P, C]."""
        return train(worlds, whitened(worlds.reward, worlds.logps), trials, budget)


@prefopt.hookimpl
def prefopt_register_methods() -> list[type[prefopt.Method]]:
    """Registers `ppo_true_reward`."""
    return [PPOTrueReward]
