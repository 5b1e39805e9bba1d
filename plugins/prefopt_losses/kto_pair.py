"""The pairwise forerunner of KTO."""

from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class KTOPair(prefopt.PairLoss):
    """The loss of value of both completions of a pair, each seen from the mean log-ratio of the other side.

    loss = sigmoid(-beta (log_ratio_chosen - kl_rejected)) + sigmoid(beta (log_ratio_rejected - kl_chosen))
    kl_chosen = max(0, mean log_ratio_chosen), kl_rejected = max(0, mean log_ratio_rejected)

    gradient: d/d chosen = -beta * slope_chosen, d/d rejected = +beta * slope_rejected, where a slope is
    sigmoid(x) * sigmoid(-x) of the argument above. Without `detach_kl` also, for a row of weight w of W in all:
    d/d chosen -= (w / W) * sum of beta * slope_rejected, where the mean of chosen is above 0;
    d/d rejected += (w / W) * sum of beta * slope_chosen, where the mean of rejected is above 0.

    Args:
        beta: strength of the pull towards the reference, > 0.
        detach_kl: whether the two means are constants for the gradient.

    Returns:
        [B] the sum of the two values of each pair, between 0 and 2; 1 where the policy equals the reference. The
        means are weighted and run over the whole optimiser batch, clamped at 0 after averaging and before use.

    Raises:
        ConfigError: `beta` is not above 0.

    Source:
        Ethayarajh et al.: Human-Aware Loss Functions (HALOs), 2023, the technical report,
        https://github.com/ContextualAI/HALOs/blob/main/assets/report.pdf; its successor `kto`, arXiv 2402.01306,
        takes unpaired labels and mismatched completions.

    Differs:
        TRL 0.8 and the code that descends from it return the 2 B values side by side, so that their mean is half of
        this one, take the means per device, and let the gradient flow through them: `detach_kl=False`.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("kto_pair", beta=0.1)(batch).losses
        tensor([0.9006])
    """

    name = "kto_pair"
    needs = prefopt.Needs(rows={"pairs"}, reference=True, coupled=True)
    beta: float = prefopt.field(0.1, gt=0, tune=(0.01, 1.0))
    detach_kl: bool = True

    def _kl(self, batch: prefopt.PreferenceBatch, completions: prefopt.Completions) -> Tensor:
        log_ratio = completions.log_ratio.detach() if self.detach_kl else completions.log_ratio
        return batch.mean(log_ratio).relu()

    def _arguments(self, batch: prefopt.PreferenceBatch) -> tuple[Tensor, Tensor]:
        """The arguments of the two sigmoids."""
        chosen, rejected = batch.chosen, batch.rejected
        return (
            -self.beta * (chosen.log_ratio - self._kl(batch, rejected)),
            self.beta * (rejected.log_ratio - self._kl(batch, chosen)),
        )

    def values(self, batch: prefopt.PreferenceBatch) -> prefopt.LossOutput:
        """One sigmoid per completion, by its logarithm: autograd's s (1 - s) is inexact where s is nearly 1."""
        chosen, rejected = self._arguments(batch)
        losses = logsigmoid(chosen).exp() + logsigmoid(rejected).exp()
        kls = {
            "chosen_kl": self._kl(batch, batch.chosen).expand_as(losses),
            "rejected_kl": self._kl(batch, batch.rejected).expand_as(losses),
        }
        return prefopt.LossOutput(losses, metrics=kls)

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """Largest where a log-ratio is near the other side's mean, vanishing on either side."""
        chosen, rejected = (self.beta * x.sigmoid() * (-x).sigmoid() for x in self._arguments(batch))
        if self.detach_kl:
            return prefopt.Gradient(policy_chosen=-chosen, policy_rejected=rejected)
        weights = batch.weights.to(chosen.dtype)
        share = weights / weights.sum()
        return prefopt.Gradient(
            policy_chosen=-chosen - share * rejected.sum() * (self._kl(batch, batch.chosen) > 0),
            policy_rejected=rejected + share * chosen.sum() * (self._kl(batch, batch.rejected) > 0),
        )

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `kto_pair`."""
    return [KTOPair]
