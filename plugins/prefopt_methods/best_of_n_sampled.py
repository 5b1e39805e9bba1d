"""Best-of-N, drawn."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

import prefopt
from prefopt.worlds import Worlds

_STREAM = 21  # of random numbers, apart from those that make a world


class BestOfNSampled(prefopt.Method):
    """Best-of-N on the true reward as it is run: n completions are drawn, the best is kept, and that many times over.

    The policy is the share of each completion among the winners of `num_decisions` draws of n for each prompt. Such a
    share has a KL larger than the truth's by about (completions that win - 1) / (2 num_decisions) nats; what never
    wins has probability 0.

    Args:
        n: draws for each completion, >= 1, rounded to a whole number.

    Source:
        Stiennon, Ouyang, Wu, Ziegler, Lowe, Voss, Radford, Amodei, Christiano: Learning to summarize from human
        feedback, 2020, arXiv 2009.01325.
    """

    name = "best_of_n_sampled"
    tune = {"n": (1.0, 128.0)}
    knows_reward = True
    num_decisions = 4096

    def policies(self, trials: Sequence[prefopt.Trial], worlds: Worlds, budget: prefopt.Budget) -> Tensor:
        """One policy a trial, [T, S, 1, P, C]."""
        sizes = [round(trial["n"]) for trial in trials]
        shares = [
            self._shares(sizes, logps, reward, np.random.default_rng((seed, _STREAM)))
            for logps, reward, seed in zip(worlds.logps, worlds.reward, worlds.seeds, strict=True)
        ]
        return torch.stack(shares, dim=1).log().unsqueeze(2)

    def _shares(self, sizes: Sequence[int], logps: Tensor, reward: Tensor, generator: np.random.Generator) -> Tensor:
        """[T, P, C] of one world [P, C]; a trial with a smaller n sees the first of the draws of one with a larger."""
        most = max(sizes)
        place = np.arange(most)[:, None]
        decisions = np.arange(self.num_decisions)
        shares = torch.zeros(len(sizes), *logps.shape, dtype=logps.dtype)
        for prompt, reached in enumerate(logps.exp().cumsum(-1).numpy()):
            uniform = generator.random((most, self.num_decisions)) * reached[-1]
            drawn = np.searchsorted(reached, uniform, side="right")
            level = np.unique(reward[prompt].numpy(), return_inverse=True)[1][drawn]
            # The best so far, and of equals the first.
            best = np.maximum.accumulate(level * most + (most - 1 - place), axis=0)
            for trial, size in enumerate(sizes):
                winners = drawn[most - 1 - best[size - 1] % most, decisions]
                shares[trial, prompt] = torch.from_numpy(np.bincount(winners, minlength=len(reached)))
        return shares / self.num_decisions


@prefopt.hookimpl
def prefopt_register_methods() -> list[type[prefopt.Method]]:
    """Registers `best_of_n_sampled`."""
    return [BestOfNSampled]
