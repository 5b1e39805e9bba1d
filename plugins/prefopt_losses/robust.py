"""Robust DPO: an unbiased estimate of DPO's loss from labels of which a known share is flipped."""

from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class Robust(prefopt.PairLoss):
    """The value whose mean over flipped and unflipped labels is DPO's loss under the true label.

    loss = ((1 - label_smoothing) * -log sigmoid(margin) - label_smoothing * -log sigmoid(-margin))
           / (1 - 2 label_smoothing)
    margin = beta * (log_ratio_chosen - log_ratio_rejected)

    gradient: d/d chosen = -beta * ((1 - label_smoothing) * sigmoid(-margin) + label_smoothing * sigmoid(margin))
    / (1 - 2 label_smoothing), d/d rejected = the negative

    Args:
        beta: strength of the pull towards the reference, > 0. TRL gives 0.01 as the paper's, from its section B.
        label_smoothing: probability that a label is flipped, at least 0 and below 0.5; 0 is `dpo`. The paper uses 0.1.

    Returns:
        [B] one value per pair, nats; ln 2 where the policy equals the reference. Unbounded below: with a positive
        `label_smoothing` it falls without end as the margin grows.

    Raises:
        ConfigError: `beta` is not above 0, or `label_smoothing` is outside [0, 0.5).

    Source:
        Chowdhury, Kini, Natarajan: Provably Robust DPO: Aligning Language Models with Noisy Feedback, 2024,
        arXiv 2403.00409, the definition of the rDPO loss.

    Differs:
        no. TRL only warns where `label_smoothing` is outside [0, 0.5), and divides by zero at 0.5.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("robust", beta=0.1, label_smoothing=0.1)(batch).losses
        tensor([0.5169])
    """

    name = "robust"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)
    relations = (prefopt.Relation("dpo", where={"label_smoothing": 0.0}),)
    beta: float = prefopt.field(0.01, gt=0, tune=(0.01, 1.0))
    label_smoothing: float = prefopt.field(0.1, ge=0, lt=0.5, tune=(0.0, 0.4))

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """DPO's loss less what flipped labels add to it on average."""
        margin = self.beta * batch.gap
        given, flipped = -logsigmoid(margin), -logsigmoid(-margin)
        return ((1 - self.label_smoothing) * given - self.label_smoothing * flipped) / (1 - 2 * self.label_smoothing)

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """Never vanishes: between beta * label_smoothing and beta * (1 - label_smoothing), over the same divisor."""
        margin = self.beta * batch.gap
        right, wrong = margin.sigmoid(), (-margin).sigmoid()
        weight = (1 - self.label_smoothing) * wrong + self.label_smoothing * right
        weight = self.beta * weight / (1 - 2 * self.label_smoothing)
        return prefopt.Gradient(policy_chosen=-weight, policy_rejected=weight)

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `robust`."""
    return [Robust]
