"""Kahneman-Tversky optimisation."""

import torch
from torch import Tensor

import prefopt


class KTO(prefopt.LabelLoss):
    """The loss of value of each completion, seen from a reference point that is the policy's KL to the reference.

    loss = desirable_weight   * sigmoid(-beta (log_ratio - kl))   for desirable completions
    loss = undesirable_weight * sigmoid(+beta (log_ratio - kl))   for undesirable ones
    kl   = max(0, mean log-ratio of the mismatched completions), a constant for the gradient

    gradient: -desirable_weight * beta * s (1 - s) or +undesirable_weight * beta * s (1 - s),
    s = sigmoid(beta (log_ratio - kl))

    Args:
        beta: strength of the pull towards the reference, > 0.
        desirable_weight: weight of desirable completions, >= 0.
        undesirable_weight: weight of undesirable completions, >= 0. The paper keeps desirable_weight * number of
            desirable rows / (undesirable_weight * number of undesirable rows) between 1 and 4/3.

    Returns:
        [N] one value per completion, between 0 and its weight. The kl is one number for the whole optimiser batch:
        the weighted mean over its rows, clamped at 0 after averaging and before use. A batch of one class is valid.

    Raises:
        ConfigError: `beta` is not above 0, or a weight is negative.

    Source:
        Ethayarajh, Xu, Muennighoff, Jurafsky, Kiela: KTO: Model Alignment as Prospect Theoretic Optimization, 2024,
        arXiv 2402.01306, the definition of L_KTO: weight - weight * sigmoid(v) is weight * sigmoid(-v).

    Differs:
        The mean runs over all ranks and micro-batches of one optimiser step; TRL averages the means of ranks, HALOs
        leaves out rows that sum to zero.

    Example:
        >>> import torch, prefopt
        >>> batch = prefopt.PreferenceBatch.from_labels(
        ...     policy=torch.tensor([-10.0, -14.0]), reference=torch.tensor([-11.0, -12.0]),
        ...     lengths=torch.tensor([5, 7]), desirable=torch.tensor([True, False]),
        ...     mismatched_policy=torch.tensor([-20.0, -20.0]), mismatched_reference=torch.tensor([-21.0, -20.0]))
        >>> prefopt.get_loss("kto", beta=0.1)(batch).losses
        tensor([0.4875, 0.4378])
    """

    name = "kto"
    needs = prefopt.Needs(rows={"labels"}, reference=True, mismatched=True, coupled=True)
    learning_rates = (5e-6, 5e-6)  # the authors' code
    beta: float = prefopt.field(0.1, gt=0, tune=(0.01, 1.0))
    desirable_weight: float = prefopt.field(1.0, ge=0, tune=(0.1, 10.0))
    undesirable_weight: float = prefopt.field(1.0, ge=0)

    def _kl(self, batch: prefopt.PreferenceBatch) -> Tensor:
        return batch.mean(batch.mismatched.log_ratio).clamp(min=0).detach()

    def _sign_and_weight(self, batch: prefopt.PreferenceBatch) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(batch.completions.policy)
        sign = torch.where(batch.desirable, one, -one)
        weight = torch.where(batch.desirable, self.desirable_weight * one, self.undesirable_weight * one)
        return sign, weight

    def values(self, batch: prefopt.PreferenceBatch) -> prefopt.LossOutput:
        """One sigmoid per completion around the batch's kl."""
        sign, weight = self._sign_and_weight(batch)
        kl = self._kl(batch)
        losses = weight * torch.sigmoid(-sign * self.beta * (batch.completions.log_ratio - kl))
        return prefopt.LossOutput(losses, metrics={"kl": kl.expand_as(losses)})

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """Largest where the log-ratio is near the kl, vanishing on either side."""
        sign, weight = self._sign_and_weight(batch)
        margin = self.beta * (batch.completions.log_ratio - self._kl(batch))
        return prefopt.Gradient(policy=-sign * weight * self.beta * margin.sigmoid() * (-margin).sigmoid())

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `kto`."""
    return [KTO]
