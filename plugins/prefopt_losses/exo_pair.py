"""Efficient exact optimisation on pairs."""

import math

from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class EXOPair(prefopt.PairLoss):
    """The reverse KL divergence from the implicit preference probability to that of the smoothed label.

    loss = q * (log q - log(1 - label_smoothing)) + (1 - q) * (log(1 - q) - log(label_smoothing))
    q = sigmoid(margin), margin = beta * (log_ratio_chosen - log_ratio_rejected)

    gradient: d/d chosen = beta * q * (1 - q) * (margin - log(1 / label_smoothing - 1)), d/d rejected = the negative

    Args:
        beta: strength of the pull towards the reference, > 0.
        label_smoothing: probability that the label gives the rejected completion, between 0 and 1, both excluded. The
            margin is pulled to log(1 / label_smoothing - 1), 6.9 for 0.001, and back from beyond it.

    Returns:
        [B] one value per pair, nats, >= 0; 0 where the margin meets its target. It is bounded, by -log(label_smoothing)
        for clearly wrong pairs and -log(1 - label_smoothing) for clearly right ones, and flat at either end.

    Raises:
        ConfigError: `beta` is not above 0, or `label_smoothing` is not between 0 and 1.

    Source:
        Ji, Lu, Niu, Ke, Wang, Zhu, Tang, Huang: Towards Efficient and Exact Optimization of Language Model Alignment,
        2024, arXiv 2402.00856, equation 16.

    Differs:
        no. The authors' code leaves the label's distribution un-normalised, log-probabilities (0, -10): with
        `label_smoothing` e^-10 that is this loss plus q * log(1 - e^-10), at most 5e-5 nats away. TRL up to 0.28 turned
        a `label_smoothing` of 0 into 0.001 without a word, and keeps it in float32.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("exo_pair", beta=0.1, label_smoothing=0.001)(batch).losses
        tensor([2.2582])
    """

    name = "exo_pair"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)
    learning_rates = (1e-6, 1e-6)  # the authors' script for HH
    beta: float = prefopt.field(0.1, gt=0, tune=(0.01, 1.0))
    label_smoothing: float = prefopt.field(1e-3, gt=0, lt=1, tune=(1e-4, 0.1))

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """The divergence of one Bernoulli distribution from another."""
        margin = self.beta * batch.gap
        log_q, log_rest = logsigmoid(margin), logsigmoid(-margin)
        chosen = log_q.exp() * (log_q - math.log1p(-self.label_smoothing))
        rejected = log_rest.exp() * (log_rest - math.log(self.label_smoothing))
        return chosen + rejected

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """The distance of the margin from its target, weighed by how undecided the preference is."""
        margin = self.beta * batch.gap
        target = math.log1p(-self.label_smoothing) - math.log(self.label_smoothing)
        slope = self.beta * margin.sigmoid() * (-margin).sigmoid() * (margin - target)
        return prefopt.Gradient(policy_chosen=slope, policy_rejected=-slope)

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `exo_pair`."""
    return [EXOPair]
