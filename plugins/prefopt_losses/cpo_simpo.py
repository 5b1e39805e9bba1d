"""Contrastive preference optimisation on SimPO's reward."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class CPOSimPO(prefopt.PairLoss):
    """The SimPO loss plus the NLL of the chosen completion.

    loss = -log sigmoid(margin) + lambda_ * nll,
    margin = beta * (mean_logp_chosen - mean_logp_rejected) - gamma, nll = -logp_chosen

    gradient: d/d chosen = -beta * sigmoid(-margin) / chosen_length - lambda_
    (`nll` "sequence": lambda_ / chosen_length), d/d rejected = +beta * sigmoid(-margin) / rejected_length

    Args:
        beta: scale of the reward, > 0. The authors use 10.
        gamma: margin the chosen reward should keep, >= 0. The authors use 5.4.
        lambda_: weight of the NLL, >= 0. The authors use 0.05; without the term the loss is `simpo`.
        nll: "token" (the authors' code) divides the summed NLL of the optimiser batch by its number of scored tokens;
            "sum" (their formula) is the summed NLL per sequence; "sequence" is the mean over the tokens of each
            completion.

    Returns:
        [B] one value per pair, nats, >= 0. There are two terms: `preference` (normaliser 1) and `nll` (normaliser:
        token counts with "token", else 1).

    Raises:
        ConfigError: `beta` is not above 0, `gamma` or `lambda_` is negative, or `nll` is none of the three.

    Source:
        Xu: The joint of Contrastive Preference Optimization (CPO) and Simple Preference Optimization (SimPO), 2024,
        https://github.com/fe1ixxu/CPO_SIMPO; code without a paper.

    Differs:
        no. TRL arrives at this loss through `loss_type="simpo"` with its default `cpo_alpha=1`, but with beta 0.1.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-21 * one, chosen_lengths=5 * one, rejected_lengths=7 * one)
        >>> prefopt.get_loss("cpo_simpo", beta=2.0, gamma=0.5, lambda_=0.1)(batch).losses
        tensor([1.2014])
    """

    name = "cpo_simpo"
    needs = prefopt.Needs(rows={"pairs"})
    learning_rates = (1e-6, 1e-6)  # the authors' training config
    on_length = "compares mean log-probs per token"
    relations = (prefopt.Relation("simpo", where={"lambda_": 0.0}),)
    beta: float = prefopt.field(10.0, gt=0, tune=(1.0, 10.0))
    gamma: float = prefopt.field(5.4, ge=0, tune=(0.1, 6.0))
    lambda_: float = prefopt.field(0.05, ge=0, tune=(0.01, 1.0))
    nll: Literal["token", "sequence", "sum"] = "token"

    def _margin(self, batch: prefopt.PreferenceBatch) -> Tensor:
        return self.beta * (batch.chosen.mean_logps - batch.rejected.mean_logps) - self.gamma

    def values(self, batch: prefopt.PreferenceBatch) -> prefopt.LossOutput:
        """The preference and the NLL."""
        preference = -logsigmoid(self._margin(batch))
        nll, normaliser = batch.chosen.nll(self.nll)
        return prefopt.LossOutput.from_terms(
            preference=(preference, torch.ones_like(preference)), nll=(self.lambda_ * nll, normaliser)
        )

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """SimPO's weight, and a constant push on the chosen completion."""
        weight = self.beta * (-self._margin(batch)).sigmoid()
        nll = self.lambda_ * batch.chosen.nll_slope(self.nll)
        return prefopt.Gradient(
            policy_chosen=nll - weight / batch.chosen.lengths.to(weight.dtype),
            policy_rejected=weight / batch.rejected.lengths.to(weight.dtype),
        )

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * mean log-prob per token."""
        return self.beta * completions.mean_logps


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `cpo_simpo`."""
    return [CPOSimPO]
