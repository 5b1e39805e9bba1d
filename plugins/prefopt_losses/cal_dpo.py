"""Calibrated direct preference optimisation."""

from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class CalDPO(prefopt.PairLoss):
    """The negative log-likelihood of the preferences plus squared distances of both log-ratios from +-1 / (2 beta).

    loss = -log sigmoid(gap) + calibration_weight * (e_chosen^2 + e_rejected^2),
    gap = log_ratio_chosen - log_ratio_rejected,
    e_chosen = log_ratio_chosen - 1 / (2 beta), e_rejected = log_ratio_rejected + 1 / (2 beta)

    gradient: d/d chosen = -sigmoid(-gap) + 2 * calibration_weight * e_chosen,
    d/d rejected = +sigmoid(-gap) + 2 * calibration_weight * e_rejected

    Args:
        beta: strength of the pull towards the reference, > 0. It sets the targets alone; the log-likelihood has none.
        calibration_weight: weight of the squares, >= 0. The paper uses 1; without them the loss is `dpo` at beta 1.

    Returns:
        [B] one value per pair, >= 0; ln 2 + calibration_weight / (2 beta^2) where the policy equals the reference.

    Raises:
        ConfigError: `beta` is not above 0, or `calibration_weight` is negative.

    Source:
        Xiao, Yuan, Zhu, Li, Honavar: Cal-DPO: Calibrated Direct Preference Optimization for Language Model Alignment,
        2024, arXiv 2412.14516, the definition of L_Cal-DPO.

    Differs:
        no. The authors' code weighs the squares by one half: `calibration_weight=0.5`.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("cal_dpo", beta=0.1)(batch).losses
        tensor([25.0486])
    """

    name = "cal_dpo"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)
    relations = (prefopt.Relation("dpo", where={"calibration_weight": 0.0}, given={"beta": 1.0}),)
    beta: float = prefopt.field(0.1, gt=0, tune=(0.001, 1.0))
    calibration_weight: float = prefopt.field(1.0, ge=0)

    def _errors(self, batch: prefopt.PreferenceBatch) -> tuple[Tensor, Tensor]:
        target = 1 / (2 * self.beta)
        return batch.chosen.log_ratio - target, batch.rejected.log_ratio + target

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """The log-likelihood and the calibration."""
        chosen, rejected = self._errors(batch)
        return -logsigmoid(batch.gap) + self.calibration_weight * (chosen.square() + rejected.square())

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """The pull of the pair, and each completion's pull to its own target."""
        pull = (-batch.gap).sigmoid()
        chosen, rejected = self._errors(batch)
        return prefopt.Gradient(
            policy_chosen=2 * self.calibration_weight * chosen - pull,
            policy_rejected=2 * self.calibration_weight * rejected + pull,
        )

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio, which the calibration pulls to 1/2 or -1/2."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `cal_dpo`."""
    return [CalDPO]
