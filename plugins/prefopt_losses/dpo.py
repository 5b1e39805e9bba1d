"""Direct preference optimisation."""

from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class DPO(prefopt.PairLoss):
    """The negative log-likelihood of the preferences under the policy's implicit reward.

    loss = -log sigmoid(margin), margin = beta * (log_ratio_chosen - log_ratio_rejected)

    gradient: d/d chosen = -beta * sigmoid(-margin), d/d rejected = +beta * sigmoid(-margin)

    Args:
        beta: strength of the pull towards the reference, > 0. The paper uses 0.1, and 0.5 for TL;DR.

    Returns:
        [B] one value per pair, nats, >= 0; ln 2 where the policy equals the reference.

    Raises:
        ConfigError: `beta` is not above 0.

    Source:
        Rafailov, Sharma, Mitchell, Ermon, Manning, Finn: Direct Preference Optimization: Your Language Model is
        Secretly a Reward Model, 2023, arXiv 2305.18290, equation 7.

    Differs:
        no.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("dpo", beta=0.1)(batch).losses
        tensor([0.5544])
    """

    name = "dpo"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)
    learning_rates = (5e-7, 1e-6)  # the authors' code, the paper's appendix B
    beta: float = prefopt.field(0.1, gt=0, tune=(0.01, 1.0))

    def _margin(self, batch: prefopt.PreferenceBatch) -> Tensor:
        return self.beta * (batch.chosen.log_ratio - batch.rejected.log_ratio)

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """-log sigmoid(margin)."""
        return -logsigmoid(self._margin(batch))

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """Each pair weighs by how wrong the implicit reward still is: sigmoid(-margin)."""
        weight = self.beta * (-self._margin(batch)).sigmoid()
        return prefopt.Gradient(policy_chosen=-weight, policy_rejected=weight)

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `dpo`."""
    return [DPO]
