"""Rank responses to align language models with human feedback."""

from typing import Literal

import torch
from torch import Tensor

import prefopt


class RRHF(prefopt.RankingLoss):
    """The hinges of all wrongly ordered pairs of a ranking plus the NLL of its best completion.

    loss = rank_weight * sum over score_i < score_j of max(0, p_i - p_j) + nll
    p = logp / length^length_penalty; nll = -logp of the completion with the highest score

    gradient: d/d p_i = rank_weight * (number of better j with p_i > p_j - number of worse j with p_j > p_i), divided
    by length^length_penalty for the log-prob; the best completion has -1 on top ("sequence": -1 / length).

    Args:
        rank_weight: weight of the ranking term, > 0. The paper adds the two terms as they are: 1.
        length_penalty: exponent of the length, >= 0; 1 compares log-probs per token (the paper), 0 sums.
        nll: "sum" (the paper) is the summed NLL of the best completion; "sequence" is its mean per token; "token"
            divides the sum over the optimiser batch by the number of scored tokens of the best completions.

    Returns:
        [B] one value per ranking, nats, >= 0. There are two terms, `rank` (normaliser 1) and `nll` (normaliser 1, or
        with "token" the length of the best completion). Pairs of equal scores are left out; of several best
        completions the first is learned. Absent slots do not count.

    Raises:
        ConfigError: `rank_weight` is not above 0, `length_penalty` is negative, or `nll` is none of the three.

    Source:
        Yuan et al.: RRHF: Rank Responses to Align Language Models with Human Feedback without tears, 2023,
        arXiv 2304.05302, the definitions of L_rank and L_ft.

    Differs:
        no. The authors' code weighs the ranking term by 100 unless told otherwise (`rank_weight`) and averages the
        NLL over the padded row, which depends on the padding and is not offered.

    Example:
        >>> import torch, prefopt
        >>> batch = prefopt.PreferenceBatch.from_rankings(
        ...     policy=torch.tensor([[-12.0, -10.0, -14.0]]), lengths=torch.tensor([[4, 5, 7]]),
        ...     scores=torch.tensor([[0.9, 0.5, 0.1]]))
        >>> prefopt.get_loss("rrhf")(batch).losses
        tensor([14.])
    """

    name = "rrhf"
    needs = prefopt.Needs(rows={"rankings"}, scores=True)
    learning_rates = (2e-5, 2e-5)  # the authors' script
    on_length = "compares log-probs divided by a power of the length"
    rank_weight: float = prefopt.field(1.0, gt=0, tune=(0.1, 100.0))
    length_penalty: float = prefopt.field(1.0, ge=0)
    nll: Literal["sum", "sequence", "token"] = "sum"

    def _divisors(self, completions: prefopt.Completions) -> Tensor:
        # An absent slot has length 0, and 0 / 0 in autograd would reach the others.
        return completions.lengths.clamp(min=1).to(completions.policy.dtype) ** self.length_penalty

    def _excesses(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """[B, K, K] p of i less that of j where j has the higher score; 0 elsewhere."""
        completions = batch.completions
        scores, present = completions.scores, completions.lengths > 0
        assert scores is not None
        better = present[:, :, None] & present[:, None, :] & (scores[:, :, None] < scores[:, None, :])
        p = self.reward(completions)
        return (p[:, :, None] - p[:, None, :]).masked_fill(~better, 0.0)

    def _best(self, completions: prefopt.Completions) -> tuple[Tensor, prefopt.Completions]:
        """[B, 1] slot of the completion with the highest score, and these B completions."""
        assert completions.scores is not None
        scores = completions.scores.double().masked_fill(completions.lengths == 0, -torch.inf)
        slot = scores.argmax(-1, keepdim=True)
        policy, lengths = (tensor.gather(1, slot)[:, 0] for tensor in (completions.policy, completions.lengths))
        return slot, prefopt.Completions(policy, lengths)

    def values(self, batch: prefopt.PreferenceBatch) -> prefopt.LossOutput:
        """A hinge without margin for each pair, and the NLL of the best completion."""
        rank = self.rank_weight * self._excesses(batch).relu().sum((1, 2))
        _, best = self._best(batch.completions)
        return prefopt.LossOutput.from_terms(rank=(rank, torch.ones_like(rank)), nll=best.nll(self.nll))

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """Counts of wrongly ordered pairs: their sizes do not matter."""
        completions = batch.completions
        wrong = (self._excesses(batch) > 0).to(completions.policy.dtype)
        rank = self.rank_weight * (wrong.sum(2) - wrong.sum(1)) / self._divisors(completions)
        slot, best = self._best(completions)
        return prefopt.Gradient(policy=rank.scatter_add(1, slot, best.nll_slope(self.nll)[:, None]))

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """The length-normalised log-prob p."""
        return completions.policy / self._divisors(completions)


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `rrhf`."""
    return [RRHF]
