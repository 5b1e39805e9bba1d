"""The policy that nobody can beat."""

from collections.abc import Sequence

import torch
from torch import Tensor

import prefopt
from prefopt.worlds import Worlds, exact
from prefopt_methods.whitening import whitened


class Optimum(prefopt.Method):
    """The exact optimum on the true reward: pi_ref exp(reward / beta) / Z, which the others try to reach.

    Args:
        beta: strength of the pull towards the reference, in standard deviations of the reward under the reference.

    Source:
        Rafailov, Sharma, Mitchell, Ermon, Manning, Finn: Direct Preference Optimization: Your Language Model is
        Secretly a Reward Model, 2023, arXiv 2305.18290, equation 4.
    """

    name = "optimum"
    tune = {"beta": (0.1, 3.0)}
    knows_reward = True

    def policies(self, trials: Sequence[prefopt.Trial], worlds: Worlds, budget: prefopt.Budget) -> Tensor:
        """One policy a trial, [T, S, 1, P, C]."""
        return optima(worlds.logps, whitened(worlds.reward, worlds.logps), trials)


def optima(reference: Tensor, reward: Tensor, trials: Sequence[prefopt.Trial]) -> Tensor:
    """[T, S, 1, P, C] the optimum on a reward [S, P, C] at each trial's `beta`, from log-probs [S, P, C]."""
    return torch.stack([exact.optimum(reference, reward, trial["beta"]) for trial in trials])[:, :, None]


@prefopt.hookimpl
def prefopt_register_methods() -> list[type[prefopt.Method]]:
    """Registers `optimum`."""
    return [Optimum]
