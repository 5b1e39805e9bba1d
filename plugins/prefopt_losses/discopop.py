"""DiscoPOP, the log-ratio modulated loss that a language model discovered."""

from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class DiscoPOP(prefopt.PairLoss):
    """A blend of the logistic and the exponential loss, logistic where the preference is wrong.

    loss = (1 - m) * -log sigmoid(margin) + m * e^-margin, m = sigmoid(margin / tau)
    margin = beta * (log_ratio_chosen - log_ratio_rejected)

    gradient: d/d chosen = beta * (m (1 - m) / tau * log sigmoid(margin) - (1 - m) * sigmoid(-margin)
    + m * e^-margin * ((1 - m) / tau - 1)), d/d rejected = the negative

    Args:
        beta: strength of the pull towards the reference, > 0.
        tau: temperature of the blend, above 0 and at most 1; the paper uses 0.05. Beyond 1 the exponential would fade
            more slowly than it grows, and wrong pairs would weigh e^(margin * (1 / tau - 1)).

    Returns:
        [B] one value per pair, >= 0; (ln 2 + 1) / 2 where the policy equals the reference. With the default `tau` it
        is not convex: it has a dip at a margin of about -0.1, and a peak at about 0.1.

    Raises:
        ConfigError: `beta` is not above 0, or `tau` is outside (0, 1].

    Source:
        Lu et al.: Discovering Preference Optimization Algorithms with and for Large Language Models, 2024,
        arXiv 2406.08414, equation 5.

    Differs:
        no. The authors' code takes m = sigmoid(log_ratio_chosen - log_ratio_rejected), which is `tau` equal to `beta`,
        as by default. TRL has tau 0.05 beside beta 0.1 unless told otherwise, and its float32 values are NaN for
        margins below -88, where the loss is |margin|.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("discopop", beta=0.05, tau=0.05)(batch).losses
        tensor([0.8493])
    """

    name = "discopop"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)
    learning_rates = (5e-7, 5e-7)  # the authors' model card
    beta: float = prefopt.field(0.05, gt=0, tune=(0.01, 1.0))
    tau: float = prefopt.field(0.05, gt=0, le=1, tune=(0.01, 1.0))

    def _exponential(self, margin: Tensor) -> Tensor:
        # m * e^-margin as one power: m alone vanishes where the other factor overflows.
        return (logsigmoid(margin / self.tau) - margin).exp()

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """The logistic and the exponential part."""
        margin = self.beta * batch.gap
        return -(-margin / self.tau).sigmoid() * logsigmoid(margin) + self._exponential(margin)

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """The slopes of both parts and that of their blend."""
        margin = self.beta * batch.gap
        blend, rest = (margin / self.tau).sigmoid(), (-margin / self.tau).sigmoid()
        logistic = blend * rest / self.tau * logsigmoid(margin) - rest * (-margin).sigmoid()
        slope = self.beta * (logistic + self._exponential(margin) * (rest / self.tau - 1))
        return prefopt.Gradient(policy_chosen=slope, policy_rejected=-slope)

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `discopop`."""
    return [DiscoPOP]
