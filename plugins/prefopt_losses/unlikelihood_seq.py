"""Likelihood of the chosen and unlikelihood of the rejected completion, as whole sequences."""

from typing import Literal

import torch
from torch import Tensor

import prefopt


class UnlikelihoodSeq(prefopt.PairLoss):
    """The NLL of the chosen completion plus the weighted log-prob of the rejected one.

    loss = nll + alpha * logp_rejected, nll = -logp_chosen

    gradient: d/d chosen = -1 (`nll` "sequence": -1 / chosen_length), d/d rejected = +alpha

    Args:
        alpha: weight of the rejected completion, from 0 to 1; without it the loss is `sft`.
        nll: "sum" (the paper) is the summed NLL per sequence; "sequence" is the mean over the tokens of each
            completion; "token" divides the summed NLL of the optimiser batch by its number of scored tokens.

    Returns:
        [B] one value per pair, nats, of either sign and unbounded below. There are two terms: `nll` (normaliser: token
        counts with "token", else 1) and `unlikelihood` (normaliser 1).

    Raises:
        ConfigError: `alpha` is outside 0 to 1, or `nll` is none of the three.

    Source:
        Rafailov, Sharma, Mitchell, Ermon, Manning, Finn: Direct Preference Optimization: Your Language Model is
        Secretly a Reward Model, 2023, arXiv 2305.18290, section 6 (the baseline Unlikelihood).

    Differs:
        no. The token-wise log(1 - p) of the unlikelihood literature is another loss, `unlikelihood_token`.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one)
        >>> prefopt.get_loss("unlikelihood_seq", alpha=0.5)(batch).losses
        tensor([3.])
    """

    name = "unlikelihood_seq"
    needs = prefopt.Needs(rows={"pairs"})
    relations = (prefopt.Relation("sft", where={"alpha": 0.0}),)
    alpha: float = prefopt.field(1.0, ge=0, le=1, tune=(0.01, 1.0))
    nll: Literal["sum", "sequence", "token"] = "sum"

    def values(self, batch: prefopt.PreferenceBatch) -> prefopt.LossOutput:
        """The NLL and the unlikelihood."""
        unlikelihood = self.alpha * batch.rejected.policy
        return prefopt.LossOutput.from_terms(
            nll=batch.chosen.nll(self.nll), unlikelihood=(unlikelihood, torch.ones_like(unlikelihood))
        )

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """Constant: it does not depend on the log-probs, so the rejected completion is pushed down without end."""
        return prefopt.Gradient(
            policy_chosen=batch.chosen.nll_slope(self.nll),
            policy_rejected=torch.full_like(batch.rejected.policy, self.alpha),
        )

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """The log-prob."""
        return completions.policy


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `unlikelihood_seq`."""
    return [UnlikelihoodSeq]
