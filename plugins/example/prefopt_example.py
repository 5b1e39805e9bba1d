"""A hinge on the implicit reward: one loss in one file, to read."""

from torch import Tensor

import prefopt


class HingeExample(prefopt.PairLoss):
    """How far the margin still is from 1.

    loss = max(0, 1 - margin), margin = beta * (log_ratio_chosen - log_ratio_rejected)

    gradient: d/d chosen = -beta where margin < 1, else 0; d/d rejected = the negative

    Args:
        beta: strength of the pull towards the reference, > 0.

    Returns:
        [B] one value per pair, >= 0; 1 where the policy equals the reference, 0 once the margin is 1.

    Raises:
        ConfigError: `beta` is not above 0.

    Source:
        Liu, Zhao, Joshi, Khalman, Saleh, Liu, Liu: Statistical Rejection Sampling Improves Preference Optimization,
        2023, arXiv 2309.06657, the loss it calls hinge-norm.

    Differs:
        The paper also samples its pairs by rejection; that is a matter of the data.

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> HingeExample(beta=0.25)(batch).losses
        tensor([0.2500])
    """

    name = "hinge_example"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)
    beta: float = prefopt.field(0.05, gt=0, tune=(0.01, 1.0))

    def _margin(self, batch: prefopt.PreferenceBatch) -> Tensor:
        return self.beta * (batch.chosen.log_ratio - batch.rejected.log_ratio)

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """What is missing to a margin of 1."""
        return (1 - self._margin(batch)).relu()

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """Full strength until the margin is met, then none; 0 on the kink, as relu has it."""
        slope = self.beta * (self._margin(batch) < 1).to(batch.chosen.policy.dtype)
        return prefopt.Gradient(policy_chosen=-slope, policy_rejected=slope)

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `hinge_example`."""
    return [HingeExample]
