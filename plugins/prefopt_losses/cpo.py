"""Contrastive preference optimisation."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class CPO(prefopt.PairLoss):
    """The negative log-likelihood of the preferences under the log-prob, plus the NLL of the chosen completion.

    loss = -log sigmoid(margin) + lambda_ * nll, margin = beta * (logp_chosen - logp_rejected), nll = -logp_chosen

    gradient: d/d chosen = -beta * sigmoid(-margin) - lambda_ (`nll` "sequence": lambda_ / chosen_length),
    d/d rejected = +beta * sigmoid(-margin)

    Args:
        beta: scale of the reward, > 0. The paper uses 0.1.
        lambda_: weight of the NLL, >= 0. The paper uses 1.
        nll: "sum" (the paper) is the summed NLL per sequence; "token" divides the summed NLL of the optimiser batch by
            its number of scored tokens; "sequence" is the mean over the tokens of each completion.

    Returns:
        [B] one value per pair, nats, >= 0. There are two terms: `preference` (normaliser 1) and `nll` (normaliser:
        token counts with "token", else 1).

    Raises:
        ConfigError: `beta` is not above 0, `lambda_` is negative, or `nll` is none of the three.

    Source:
        Xu, Sharaf, Chen, Tan, Shen, Van Durme, Murray, Kim: Contrastive Preference Optimization: Pushing the Boundaries
        of LLM Performance in Machine Translation, 2024, arXiv 2401.08417, the definition of L_CPO.

    Differs:
        no. TRL and the authors' code take the mean NLL over the tokens of the batch: `nll="token"`.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one)
        >>> prefopt.get_loss("cpo", beta=0.1)(batch).losses
        tensor([10.5130])
    """

    name = "cpo"
    needs = prefopt.Needs(rows={"pairs"})
    beta: float = prefopt.field(0.1, gt=0, tune=(0.01, 1.0))
    lambda_: float = prefopt.field(1.0, ge=0, tune=(0.01, 10.0))
    nll: Literal["sum", "token", "sequence"] = "sum"

    def _margin(self, batch: prefopt.PreferenceBatch) -> Tensor:
        return self.beta * (batch.chosen.policy - batch.rejected.policy)

    def values(self, batch: prefopt.PreferenceBatch) -> prefopt.LossOutput:
        """The preference and the NLL."""
        preference = -logsigmoid(self._margin(batch))
        nll, normaliser = batch.chosen.nll(self.nll)
        return prefopt.LossOutput.from_terms(
            preference=(preference, torch.ones_like(preference)), nll=(self.lambda_ * nll, normaliser)
        )

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """DPO's weight without a reference, and a constant push on the chosen completion."""
        weight = self.beta * (-self._margin(batch)).sigmoid()
        return prefopt.Gradient(
            policy_chosen=self.lambda_ * batch.chosen.nll_slope(self.nll) - weight, policy_rejected=weight
        )

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log-prob."""
        return self.beta * completions.policy


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `cpo`."""
    return [CPO]
