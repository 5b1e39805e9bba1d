"""Self-play preference optimisation with hard preference probabilities."""

from torch import Tensor

import prefopt


class SPPOHard(prefopt.PairLoss):
    """The squared distances of both log-ratios from the targets that their probabilities of winning set.

    loss = scale * ((log_ratio_chosen - target_chosen)^2 + (log_ratio_rejected - target_rejected)^2),
    target = (p - 1/2) / beta

    gradient: d/d chosen = 2 * scale * (log_ratio_chosen - target_chosen),
    d/d rejected = 2 * scale * (log_ratio_rejected - target_rejected)

    Args:
        beta: the inverse of the paper's learning rate eta, > 0. The paper uses 0.001, targets of +500 and -500 nats.
        p_chosen: probability that the chosen completion beats the policy, from 0 to 1. Hard labels: 1.
        p_rejected: probability that the rejected completion does, from 0 to 1. Hard labels: 0.
        scale: weight of the two squares, > 0: 1 is their sum, 0.5 their mean.

    Returns:
        [B] one value per pair, nats squared, >= 0. With hard labels 1 / 2 * scale / beta^2 where the policy equals the
        reference.

    Raises:
        ConfigError: `beta` or `scale` is not above 0, or a probability is outside 0 to 1.

    Source:
        Wu, Sun, Yuan, Ji, Yang, Gu: Self-Play Preference Optimization for Language Model Alignment, 2024,
        arXiv 2405.00675, equation 4.7: each completion's square counts once.

    Differs:
        The paper estimates the probabilities from samples; here they are two constants. The authors' code averages the
        two squares: `scale=0.5`. TRL sums them as here, but defaults to beta 0.1.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("sppo_hard", beta=0.1)(batch).losses
        tensor([25.])
    """

    name = "sppo_hard"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)
    learning_rates = (5e-7, 5e-7)  # the authors' recipe
    beta: float = prefopt.field(0.001, gt=0, tune=(0.0001, 0.1))
    p_chosen: float = prefopt.field(1.0, ge=0, le=1)
    p_rejected: float = prefopt.field(0.0, ge=0, le=1)
    scale: float = prefopt.field(1.0, gt=0)

    def _distances(self, batch: prefopt.PreferenceBatch) -> tuple[Tensor, Tensor]:
        chosen = batch.chosen.log_ratio - (self.p_chosen - 0.5) / self.beta
        return chosen, batch.rejected.log_ratio - (self.p_rejected - 0.5) / self.beta

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """Both squared distances."""
        chosen, rejected = self._distances(batch)
        return self.scale * (chosen.square() + rejected.square())

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """Linear in each distance; neither side knows of the other."""
        chosen, rejected = self._distances(batch)
        return prefopt.Gradient(policy_chosen=2 * self.scale * chosen, policy_rejected=2 * self.scale * rejected)

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio, which the loss pulls to p - 1/2."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `sppo_hard`."""
    return [SPPOHard]
