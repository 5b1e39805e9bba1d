"""Conservative DPO: the preference labels are right with a known probability."""

from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class CDPO(prefopt.PairLoss):
    """The cross-entropy of the implicit preference probability against labels of which a known share is flipped.

    loss = (1 - label_smoothing) * -log sigmoid(margin) + label_smoothing * -log sigmoid(-margin)
    margin = beta * (log_ratio_chosen - log_ratio_rejected)

    gradient: d/d chosen = beta * (label_smoothing * sigmoid(margin) - (1 - label_smoothing) * sigmoid(-margin)),
    d/d rejected = the negative; zero at margin = log(1 / label_smoothing - 1)

    Args:
        beta: strength of the pull towards the reference, > 0.
        label_smoothing: probability that a label is flipped, at least 0 and below 0.5; 0 is `dpo`.

    Returns:
        [B] one value per pair, nats, at least the entropy of the labels; ln 2 where the policy equals the reference.

    Raises:
        ConfigError: `beta` is not above 0, or `label_smoothing` is outside [0, 0.5).

    Source:
        Mitchell: A note on DPO with noisy preferences & relationship to IPO, 2023, https://ericmitchell.ai/cdpo.pdf,
        equation 3.

    Differs:
        no. TRL from 0.29 on ignores `label_smoothing` for its `sigmoid` loss and so trains `dpo`; up to 0.28 it
        trained this loss. HALOs sets `label_smoothing` to 0.2.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("cdpo", beta=0.1, label_smoothing=0.1)(batch).losses
        tensor([0.5844])
    """

    name = "cdpo"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)
    relations = (prefopt.Relation("dpo", where={"label_smoothing": 0.0}),)
    beta: float = prefopt.field(0.1, gt=0, tune=(0.01, 1.0))
    label_smoothing: float = prefopt.field(0.1, ge=0, lt=0.5, tune=(0.0, 0.4))

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """The two cross-entropies, weighed by how likely the label is right and wrong."""
        margin = self.beta * batch.gap
        return -(1 - self.label_smoothing) * logsigmoid(margin) - self.label_smoothing * logsigmoid(-margin)

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """Changes sign once the preference is as certain as its label."""
        margin = self.beta * batch.gap
        right, wrong = margin.sigmoid(), (-margin).sigmoid()
        slope = self.beta * (self.label_smoothing * right - (1 - self.label_smoothing) * wrong)
        return prefopt.Gradient(policy_chosen=slope, policy_rejected=-slope)

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `cdpo`."""
    return [CDPO]
