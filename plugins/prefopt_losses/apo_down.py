"""Anchored preference optimisation for chosen completions worse than the model's own."""

from typing import Literal

from torch import Tensor

import prefopt


class APODown(prefopt.PairLoss):
    """The sigmoid of the chosen reward, anchored at the reference, less that of the margin over the rejected.

    loss = sigmoid(r_chosen) - sigmoid(margin) + offset, margin = r_chosen - r_rejected, r = beta * log_ratio

    gradient, with s' = s (1 - s): d/d chosen = beta * (s'(r_chosen) - s'(margin)), d/d rejected = +beta * s'(margin)

    Args:
        beta: strength of the pull towards the reference, > 0.
        offset: constant added to each value, 0 (the paper) or 1, which makes it a loss >= 0. No gradient depends on it.

    Returns:
        [B] one value per pair, without unit, from -1 to 1 plus `offset`; `offset` where the policy equals the
        reference.

    Raises:
        ConfigError: `beta` is not above 0, or `offset` is neither 0 nor 1.

    Source:
        D'Oosterlinck et al.: Anchored Preference Optimization and Contrastive Revisions: Addressing Underspecification
        in Alignment, 2024, arXiv 2408.06266, equation 8.

    Differs:
        no. TRL adds 1 to every value: `offset=1`.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("apo_down", beta=0.1)(batch).losses
        tensor([-0.0495])
    """

    name = "apo_down"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)
    beta: float = prefopt.field(0.1, gt=0, tune=(0.01, 1.0))
    offset: Literal[0, 1] = 0

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """One sigmoid pulls the chosen reward down, the other holds the margin up."""
        chosen, margin = self.reward(batch.chosen), self.beta * batch.gap
        if self.offset == 1:
            return chosen.sigmoid() + (-margin).sigmoid()
        # sigmoid(chosen) - sigmoid(margin), which would round to 0 where both are near 1.
        return chosen.sigmoid() * (-margin).sigmoid() - margin.sigmoid() * (-chosen).sigmoid()

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """At the reference the two slopes of the chosen side cancel: only the rejected one moves."""
        chosen, margin = self.reward(batch.chosen), self.beta * batch.gap
        down = self.beta * chosen.sigmoid() * (-chosen).sigmoid()
        apart = self.beta * margin.sigmoid() * (-margin).sigmoid()
        return prefopt.Gradient(policy_chosen=down - apart, policy_rejected=apart)

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `apo_down`."""
    return [APODown]
