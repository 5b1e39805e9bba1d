"""Implicit rewards of the completions of a batch, and who wins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prefopt.engine.assembly import Assembly, completions
from prefopt.engine.logps import TokenLogps
from prefopt.errors import NonFiniteLossError
from prefopt.weighted import Objective


@torch.no_grad()
def reward_margins(loss: Objective, assembly: Assembly, policy: TokenLogps, reference: TokenLogps | None) -> Tensor:
    """[P] reward(better) - reward(worse) of every pair in the data, whatever kind the loss reads."""
    rewards = loss.reward(completions(policy, reference, with_tokens=loss.needs.tokens))
    pairs = torch.tensor(assembly.preferred, dtype=torch.long, device=rewards.device).view(-1, 2)
    return rewards[pairs[:, 0]] - rewards[pairs[:, 1]]


@dataclass(frozen=True)
class RowRewards:
    """Accuracy and margin of each data row that holds pairs; a row with several pairs counts once, with its mean.

    Attributes:
        accuracies: [R] share of the row's pairs won, a tie counting one half.
        margins: [R] mean of reward(better) - reward(worse), in the loss's own units.
        weights: [R] row weights.
        num_pairs: pairs of all rows.
    """

    accuracies: Tensor
    margins: Tensor
    weights: Tensor
    num_pairs: int

    @property
    def accuracy(self) -> float:
        """The weighted mean."""
        return float((self.weights * self.accuracies).sum() / self.weights.sum())

    @property
    def margin(self) -> float:
        """The weighted mean."""
        return float((self.weights * self.margins).sum() / self.weights.sum())

    @property
    def num_effective(self) -> float:
        """Rows of equal weight that would estimate a mean as well (Kish): (sum w)^2 / sum w^2."""
        return float(self.weights.sum() ** 2 / self.weights.square().sum())


def row_rewards(
    loss: Objective, assembly: Assembly, policy: TokenLogps, reference: TokenLogps | None
) -> RowRewards | None:
    """What the policy's rewards say of each row's pairs; None where the rows hold no pairs.

    Raises:
        NonFiniteLossError: a margin is NaN; the message names the rows.
    """
    if not assembly.preferred:
        return None
    margins = reward_margins(loss, assembly, policy, reference)
    owners = torch.tensor([assembly.owner_of(pair) for pair in assembly.preferred], device=margins.device)
    if margins.isnan().any():
        names = assembly.names(owners[margins.isnan()].tolist())
        raise NonFiniteLossError(f"the reward margin is NaN on {names}")
    rows, index, counts = torch.unique(owners, return_inverse=True, return_counts=True)

    def mean(values: Tensor) -> Tensor:
        total: Tensor = values.new_zeros(len(rows)).index_add(0, index, values)
        return total.div(counts)

    weights = margins.new_tensor([assembly.rows[row].weight for row in rows.tolist()])
    return RowRewards(mean(accuracies(margins)), mean(margins), weights, len(margins))


def accuracies(margins: Tensor) -> Tensor:
    """1 where the margin is positive, 0 where it is negative, one half where it is a tie.

    >>> accuracies(torch.tensor([0.3, 0.0, -2.0]))
    tensor([1.0000, 0.5000, 0.0000])
    """
    return (margins.sign() + 1) / 2
