"""Length-normalised DPO, as in Tulu 3."""

from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class SigmoidNorm(prefopt.PairLoss):
    """DPO's loss with log-ratios per token, so that a long completion counts no more than a short one.

    loss = -log sigmoid(margin)
    margin = beta * (log_ratio_chosen / chosen_length - log_ratio_rejected / rejected_length)

    gradient: d/d chosen = -beta * sigmoid(-margin) / chosen_length,
    d/d rejected = +beta * sigmoid(-margin) / rejected_length

    Args:
        beta: strength of the pull towards the reference, per token, > 0. Tulu 3 uses 5; it is larger than DPO's by
            about the length of a completion.

    Returns:
        [B] one value per pair, nats, >= 0; ln 2 where the policy equals the reference.

    Raises:
        ConfigError: `beta` is not above 0.

    Source:
        Lambert et al.: Tulu 3: Pushing Frontiers in Open Language Model Post-Training, 2024, arXiv 2411.15124, the
        definition of length-normalised DPO; beta as in the authors' command, `--dpo_loss_type dpo_norm --dpo_beta 5`.

    Differs:
        no. TRL's `sigmoid_norm` is the same loss with a default beta of 0.1: `beta=0.1`.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=8 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("sigmoid_norm", beta=5.0)(batch).losses
        tensor([0.1002])
    """

    name = "sigmoid_norm"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)
    on_length = "compares mean log-ratios per token"
    beta: float = prefopt.field(5.0, gt=0, tune=(0.1, 20.0))

    def _margin(self, batch: prefopt.PreferenceBatch) -> Tensor:
        return self.beta * (batch.chosen.mean_log_ratio - batch.rejected.mean_log_ratio)

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """-log sigmoid(margin)."""
        return -logsigmoid(self._margin(batch))

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """DPO's, shared out over the tokens of each completion."""
        weight = self.beta * (-self._margin(batch)).sigmoid()
        return prefopt.Gradient(
            policy_chosen=-weight / batch.chosen.lengths.to(weight.dtype),
            policy_rejected=weight / batch.rejected.lengths.to(weight.dtype),
        )

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio per token."""
        return self.beta * completions.mean_log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `sigmoid_norm`."""
    return [SigmoidNorm]
