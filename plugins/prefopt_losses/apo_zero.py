"""Anchored preference optimisation for chosen completions better than the model's own."""

from typing import Literal

from torch import Tensor

import prefopt


class APOZero(prefopt.PairLoss):
    """The sigmoid of the rejected reward less that of the chosen, each anchored at the reference.

    loss = -sigmoid(r_chosen) + sigmoid(r_rejected) + offset, r = beta * log_ratio

    gradient: d/d chosen = -beta * s (1 - s) with s = sigmoid(r_chosen),
    d/d rejected = +beta * s (1 - s) with s = sigmoid(r_rejected)

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
        in Alignment, 2024, arXiv 2408.06266, equation 7.

    Differs:
        no. TRL adds 1 to every value: `offset=1`.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("apo_zero", beta=0.1)(batch).losses
        tensor([-0.0748])
    """

    name = "apo_zero"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)
    beta: float = prefopt.field(0.1, gt=0, tune=(0.01, 1.0))
    offset: Literal[0, 1] = 0

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """One sigmoid per completion."""
        chosen, rejected = self.reward(batch.chosen), self.reward(batch.rejected)
        if self.offset == 1:
            return (-chosen).sigmoid() + rejected.sigmoid()
        # sigmoid(rejected) - sigmoid(chosen), which would round to 0 where both are near 1.
        return rejected.sigmoid() * (-chosen).sigmoid() - chosen.sigmoid() * (-rejected).sigmoid()

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """Largest at the reference, vanishing far from it; neither side knows of the other."""
        chosen, rejected = self.reward(batch.chosen), self.reward(batch.rejected)
        return prefopt.Gradient(
            policy_chosen=-self.beta * chosen.sigmoid() * (-chosen).sigmoid(),
            policy_rejected=self.beta * rejected.sigmoid() * (-rejected).sigmoid(),
        )

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `apo_zero`."""
    return [APOZero]
