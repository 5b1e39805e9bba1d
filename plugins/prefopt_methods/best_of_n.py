"""Best-of-N, whole."""

from collections.abc import Sequence

import torch
from torch import Tensor

import prefopt
from prefopt.worlds import Worlds


class BestOfN(prefopt.Method):
    """Best-of-N on the true reward: the exact distribution of the best of n draws from the reference.

    P(best = c) = (F(c)^n - F(below c)^n) pi_ref(c) / pi_ref(ties of c)

    F(c) is the reference's chance of a completion no better than c. Completions of one reward share their chance as
    the reference would, which is what keeping the first of equals does.

    Args:
        n: draws for each completion, >= 1. The formula holds for any real n, so a trial need not round.

    Source:
        Stiennon, Ouyang, Wu, Ziegler, Lowe, Voss, Radford, Amodei, Christiano: Learning to summarize from human
        feedback, 2020, arXiv 2009.01325; for the KL: Beirami and others: Theoretical guarantees on the best-of-n
        alignment policy, 2024, arXiv 2401.01879.
    """

    name = "best_of_n"
    tune = {"n": (1.0, 128.0)}
    knows_reward = True

    def policies(self, trials: Sequence[prefopt.Trial], worlds: Worlds, budget: prefopt.Budget) -> Tensor:
        """One policy a trial, [T, S, 1, P, C]."""
        return best_of(worlds.logps, worlds.reward, trials)


def best_of(reference: Tensor, reward: Tensor, trials: Sequence[prefopt.Trial]) -> Tensor:
    """[T, S, 1, P, C] log-probs of the best by `reward` of each trial's `n` draws.

    Args:
        reference: [S, P, C] log-probs of the policy drawn from, nats.
        reward: [S, P, C].
        trials: [T].
    """
    mine, other = reward.unsqueeze(-1), reward.unsqueeze(-2)
    no_better = torch.where(other <= mine, reference.unsqueeze(-2), -torch.inf).logsumexp(-1)
    ties = torch.where(other == mine, reference.unsqueeze(-2), -torch.inf).logsumexp(-1)
    # F(below) / F as 1 less a share, in logs: neither rare completions nor large n are lost to rounding.
    below = torch.log1p(-(ties - no_better).exp().clamp(max=1))
    n = torch.tensor([trial["n"] for trial in trials], dtype=reference.dtype)[:, None, None, None, None]
    won = n * no_better[:, None] + torch.log(-torch.expm1(n * below[:, None]))
    return won + (reference - ties)[:, None]


@prefopt.hookimpl
def prefopt_register_methods() -> list[type[prefopt.Method]]:
    """Registers `best_of_n`."""
    return [BestOfN]
