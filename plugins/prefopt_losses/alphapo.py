"""Preference optimisation with a reward shaped by alpha."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class AlphaPO(prefopt.PairLoss):
    """The negative log-likelihood of the preferences under a power of the mean probability, with a target margin.

    loss = -log sigmoid(margin), margin = r_chosen - r_rejected - gamma,
    r = beta * (1 - p^-alpha) / alpha, p = e^(mean log-prob per token); at alpha 0 its limit, beta * mean log-prob

    gradient: d/d chosen = -beta * sigmoid(-margin) * p_chosen^-alpha / chosen_length,
    d/d rejected = +beta * sigmoid(-margin) * p_rejected^-alpha / rejected_length

    Args:
        alpha: shape of the reward, from -10 to 10. Above 0 unlikely completions weigh more, below 0 less; 0 is `simpo`.
        beta: scale of the reward, > 0.
        gamma: margin the chosen reward should keep, >= 0.

    Returns:
        [B] one value per pair, nats, >= 0; +inf where p_chosen^-alpha is beyond the floating-point range and greater
        than p_rejected^-alpha.

    Raises:
        ConfigError: `alpha` is outside -10 to 10, `beta` is not above 0, or `gamma` is negative.

    Source:
        Gupta et al.: AlphaPO: Reward Shape Matters for LLM Alignment, 2025, arXiv 2501.03884, the definition of
        L_AlphaPO.

    Differs:
        no. TRL takes `alpha` with other losses too, where p is the probability of the whole completion, and leaves log
        space, so that it overflows earlier.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-21 * one, chosen_lengths=5 * one, rejected_lengths=7 * one)
        >>> prefopt.get_loss("alphapo", alpha=0.25, beta=2.5, gamma=0.1)(batch).losses
        tensor([0.0102])
    """

    name = "alphapo"
    needs = prefopt.Needs(rows={"pairs"})
    on_length = "compares mean log-probs per token"
    relations = (prefopt.Relation("simpo", where={"alpha": 0.0}),)
    alpha: float = prefopt.field(0.25, ge=-10, le=10, tune=(0.01, 0.5))
    beta: float = prefopt.field(2.5, gt=0, tune=(1.0, 10.0))
    gamma: float = prefopt.field(0.1, ge=0, tune=(0.1, 2.0))

    def _shaped(self, mean_logps: Tensor) -> Tensor:
        # An alpha this small changes no digit, and dividing by it may be 0 / 0.
        if abs(self.alpha) < torch.finfo(mean_logps.dtype).tiny ** 0.5:
            return mean_logps
        return -torch.expm1(-self.alpha * mean_logps) / self.alpha

    def _margin(self, batch: prefopt.PreferenceBatch) -> Tensor:
        chosen, rejected = batch.chosen.mean_logps, batch.rejected.mean_logps
        overflow = self._shaped(rejected.detach()).isinf()
        gap = self._shaped(chosen.where(~overflow, 0)) - self._shaped(rejected.where(~overflow, 0))
        # Beyond the range only the sign of the gap is left, and a tie; inf - inf would be neither. The two factors
        # are finite and their product is not, so that a slope of 0 stays 0 and any other becomes infinite.
        steep = torch.finfo(gap.dtype).max ** 0.75
        return self.beta * torch.where(overflow, (chosen - rejected) * steep * steep, gap) - self.gamma

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """-log sigmoid(margin)."""
        return -logsigmoid(self._margin(batch))

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """SimPO's weight times p^-alpha, multiplied in log space: one may vanish where the other overflows."""
        log_weight = logsigmoid(-self._margin(batch))
        chosen, rejected = (
            self.beta * (log_weight - self.alpha * side.mean_logps).exp() / side.lengths.to(log_weight.dtype)
            for side in (batch.chosen, batch.rejected)
        )
        return prefopt.Gradient(policy_chosen=-chosen, policy_rejected=rejected)

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * (1 - p^-alpha) / alpha."""
        return self.beta * self._shaped(completions.mean_logps)


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `alphapo`."""
    return [AlphaPO]
