"""Length-regularised DPO."""

from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class RDPO(prefopt.PairLoss):
    """The negative log-likelihood of the preferences under a policy that is to earn its reward without length.

    loss = -log sigmoid(margin)
    margin = beta * (log_ratio_chosen - log_ratio_rejected) + alpha * (chosen_length - rejected_length)

    gradient: d/d chosen = -beta * sigmoid(-margin), d/d rejected = +beta * sigmoid(-margin)

    Args:
        beta: strength of the pull towards the reference, > 0.
        alpha: what a scored token costs, in units of reward, >= 0; 0 is `dpo`. The sign is a plus: the policy that is
            best for the reward less alpha * length has the reward beta * log_ratio + alpha * length, so a chosen
            completion that is the longer one is preferred for its length already and pulls less.

    Returns:
        [B] one value per pair, nats, >= 0; ln 2 where the policy equals the reference and the lengths are equal.

    Raises:
        ConfigError: `beta` is not above 0, or `alpha` is negative.

    Source:
        Park, Rafailov, Ermon, Finn: Disentangling Length from Quality in Direct Preference Optimization, 2024,
        arXiv 2403.19159, the definition of the regularised loss.

    Differs:
        no. SamPO's code has the same sign; that of alpha-DPO takes the length term away, which rewards length, and
        multiplies it by beta; oxRL takes it away too. Not in TRL.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("r_dpo", beta=0.1, alpha=0.05)(batch).losses
        tensor([0.5981])
    """

    name = "r_dpo"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)
    on_length = "charges alpha for every token"
    relations = (prefopt.Relation("dpo", where={"alpha": 0.0}),)
    beta: float = prefopt.field(0.1, gt=0, tune=(0.01, 1.0))
    alpha: float = prefopt.field(0.01, ge=0, tune=(0.0, 1.0))

    def _margin(self, batch: prefopt.PreferenceBatch) -> Tensor:
        # Subtracted as they come: bfloat16 holds no whole number beyond 256 exactly.
        longer = (batch.chosen.lengths - batch.rejected.lengths).to(batch.gap.dtype)
        return self.beta * batch.gap + self.alpha * longer

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """-log sigmoid(margin)."""
        return -logsigmoid(self._margin(batch))

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """DPO's, with a smaller weight where the chosen completion is the longer one."""
        weight = self.beta * (-self._margin(batch)).sigmoid()
        return prefopt.Gradient(policy_chosen=-weight, policy_rejected=weight)

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio, less alpha * length: length counts against a completion here, unlike in the margin."""
        lengths = completions.lengths.to(completions.policy.dtype)
        return self.beta * completions.log_ratio - self.alpha * lengths


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `r_dpo`."""
    return [RDPO]
