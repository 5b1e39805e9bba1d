"""MinorDPO: DPO that pushes a rejected completion no further down than the reference has it."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class MinorDPO(prefopt.PairLoss):
    """DPO's loss with a rejected completion that counts only while it is likelier than under the reference.

    loss = -log sigmoid(margin), margin = beta * (log_ratio_chosen - max(0, log_ratio_rejected))

    gradient: d/d chosen = -beta * sigmoid(-margin), d/d rejected = +beta * sigmoid(-margin) where
    log_ratio_rejected > 0, else 0

    Args:
        beta: strength of the pull towards the reference, > 0.

    Returns:
        [B] one value per pair, nats, >= 0; ln 2 where the policy equals the reference, which is a kink: the rejected
        completion's subgradient there is 0, so that a first step from the reference moves the chosen ones alone.

    Raises:
        ConfigError: `beta` is not above 0.

    Source:
        Xie et al.: Minor DPO reject penalty to increase training robustness, 2024, arXiv 2408.09834, the definition
        of the MinorDPO loss.

    Differs:
        no. At the kink `torch.maximum` would push the rejected completion with half of its slope and `clamp` with all.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("minor_dpo", beta=0.1)(batch).losses
        tensor([0.6444])
    """

    name = "minor_dpo"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)
    beta: float = prefopt.field(0.1, gt=0, tune=(0.01, 1.0))

    def _margin(self, batch: prefopt.PreferenceBatch) -> Tensor:
        return self.beta * (batch.chosen.log_ratio - torch.relu(batch.rejected.log_ratio))

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """-log sigmoid(margin)."""
        return -logsigmoid(self._margin(batch))

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """A rejected completion that is down to the reference is left alone."""
        weight = self.beta * (-self._margin(batch)).sigmoid()
        ahead = (batch.rejected.log_ratio > 0).to(weight.dtype)
        return prefopt.Gradient(policy_chosen=-weight, policy_rejected=weight * ahead)

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `minor_dpo`."""
    return [MinorDPO]
