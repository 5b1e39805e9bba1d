"""DPO-Positive: DPO that keeps the chosen completion as likely as under the reference."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class DPOP(prefopt.PairLoss):
    """DPO's loss with a margin that shrinks where the chosen completion is less likely than under the reference.

    loss = -log sigmoid(margin)
    margin = beta * (log_ratio_chosen - log_ratio_rejected - lambda_ * max(0, -log_ratio_chosen))

    gradient: d/d rejected = +beta * sigmoid(-margin), d/d chosen = -beta * sigmoid(-margin), times 1 + lambda_ where
    log_ratio_chosen < 0

    Args:
        beta: strength of the pull towards the reference, > 0. The paper uses 0.3.
        lambda_: weight of the penalty, >= 0; 0 is `dpo`. The paper uses 50.

    Returns:
        [B] one value per pair, nats, >= 0; ln 2 where the policy equals the reference, which is a kink: the penalty's
        subgradient there is 0, so that a first step from the reference is DPO's.

    Raises:
        ConfigError: `beta` is not above 0, or `lambda_` is negative.

    Source:
        Pal, Karkhanis, Dooley, Roberts, Naidu, White: Smaug: Fixing Failure Modes of Preference Optimisation with
        DPO-Positive, 2024, arXiv 2402.13228, the definition of the DPOP loss.

    Differs:
        no. The penalty stands inside beta, so that its weight in units of reward is beta * lambda_. At the kink
        `torch.maximum` would take half of the penalty's slope and `clamp` all of it.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-12 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("dpop", beta=0.3, lambda_=5.0)(batch).losses
        tensor([1.4633])
    """

    name = "dpop"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)
    relations = (prefopt.Relation("dpo", where={"lambda_": 0.0}),)
    beta: float = prefopt.field(0.3, gt=0, tune=(0.01, 1.0))
    lambda_: float = prefopt.field(50.0, ge=0, tune=(1.0, 100.0))

    def _margin(self, batch: prefopt.PreferenceBatch) -> Tensor:
        return self.beta * (batch.gap - self.lambda_ * torch.relu(-batch.chosen.log_ratio))

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """-log sigmoid(margin)."""
        return -logsigmoid(self._margin(batch))

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """DPO's, with a chosen completion that fell behind the reference pulled up 1 + lambda_ times as hard."""
        weight = self.beta * (-self._margin(batch)).sigmoid()
        behind = (batch.chosen.log_ratio < 0).to(weight.dtype)
        return prefopt.Gradient(policy_chosen=-weight * (1 + self.lambda_ * behind), policy_rejected=weight)

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `dpop`."""
    return [DPOP]
