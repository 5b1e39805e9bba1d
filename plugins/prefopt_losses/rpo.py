"""Direct preference optimisation beside the NLL of the chosen completion."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class RPO(prefopt.PairLoss):
    """The DPO loss plus the NLL of the chosen completion.

    loss = -log sigmoid(margin) + alpha * nll,
    margin = beta * (log_ratio_chosen - log_ratio_rejected), nll = -logp_chosen / chosen_length

    gradient: d/d chosen = -beta * sigmoid(-margin) - alpha / chosen_length, d/d rejected = +beta * sigmoid(-margin)
    (`nll` "token" and "sum": alpha without the length)

    Args:
        beta: strength of the pull towards the reference, > 0.
        alpha: weight of the NLL, >= 0. The paper uses 1; without the term the loss is `dpo`.
        nll: "sequence" (the paper) is the mean over the tokens of each completion; "token" divides the summed NLL of
            the optimiser batch by its number of scored tokens; "sum" is the summed NLL per sequence.

    Returns:
        [B] one value per pair, nats, >= 0. There are two terms: `preference` (normaliser 1) and `nll` (normaliser:
        token counts with "token", else 1).

    Raises:
        ConfigError: `beta` is not above 0, `alpha` is negative, or `nll` is none of the three.

    Source:
        Pang, Yuan, Cho, He, Sukhbaatar, Weston: Iterative Reasoning Preference Optimization, 2024, arXiv 2404.19733,
        the definition of L_DPO+NLL. Liu et al.: Provably Mitigating Overoptimization in RLHF: Your SFT Loss is
        Implicitly an Adversarial Regularizer, 2024, arXiv 2405.16436, adds the NLL with a weight of 0.005.

    Differs:
        no. TRL's pair of losses `sigmoid` and `sft` takes the mean over the tokens of the batch: `nll="token"`.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("rpo", beta=0.1, alpha=1.0)(batch).losses
        tensor([2.5544])
    """

    name = "rpo"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)
    relations = (prefopt.Relation("dpo", where={"alpha": 0.0}),)
    beta: float = prefopt.field(0.1, gt=0, tune=(0.01, 1.0))
    alpha: float = prefopt.field(1.0, ge=0, tune=(0.005, 2.0))
    nll: Literal["sequence", "token", "sum"] = "sequence"

    def values(self, batch: prefopt.PreferenceBatch) -> prefopt.LossOutput:
        """The preference and the NLL."""
        preference = -logsigmoid(self.beta * batch.gap)
        nll, normaliser = batch.chosen.nll(self.nll)
        return prefopt.LossOutput.from_terms(
            preference=(preference, torch.ones_like(preference)), nll=(self.alpha * nll, normaliser)
        )

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """DPO's weight, and a constant push on the chosen completion."""
        weight = self.beta * (-self.beta * batch.gap).sigmoid()
        return prefopt.Gradient(
            policy_chosen=self.alpha * batch.chosen.nll_slope(self.nll) - weight, policy_rejected=weight
        )

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `rpo`."""
    return [RPO]
