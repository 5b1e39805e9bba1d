"""Implicit rewards of the completions of a batch, and who wins."""

from __future__ import annotations

import torch
from torch import Tensor

from prefopt.batch import Completions, Tokens
from prefopt.engine.assembly import Assembly
from prefopt.engine.logps import TokenLogps
from prefopt.weighted import Objective


@torch.no_grad()
def reward_margins(loss: Objective, assembly: Assembly, policy: TokenLogps, reference: TokenLogps | None) -> Tensor:
    """[P] reward(better) - reward(worse) of every pair in the data, whatever kind the loss reads."""
    tokens = None
    if loss.needs.tokens:
        tokens = Tokens(policy.values, policy.offsets, None if reference is None else reference.values)
    rewards = loss.reward(
        Completions(
            policy=policy.sums,
            lengths=torch.tensor(policy.lengths, device=policy.values.device),
            reference=None if reference is None else reference.sums,
            tokens=tokens,
        )
    )
    pairs = torch.tensor(assembly.preferred, dtype=torch.long, device=rewards.device).view(-1, 2)
    return rewards[pairs[:, 0]] - rewards[pairs[:, 1]]


def accuracies(margins: Tensor) -> Tensor:
    """1 where the margin is positive, 0 where it is negative, one half where it is a tie.

    >>> accuracies(torch.tensor([0.3, 0.0, -2.0]))
    tensor([1.0000, 0.5000, 0.0000])
    """
    return (margins.sign() + 1) / 2
