"""Simple preference optimisation with a reference-free reward."""

from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class SimPO(prefopt.PairLoss):
    """The negative log-likelihood of the preferences under the mean log-prob per token, with a target margin.

    loss = -log sigmoid(margin), margin = beta * (mean_logp_chosen - mean_logp_rejected) - gamma

    gradient: d/d chosen = -beta * sigmoid(-margin) / chosen_length,
    d/d rejected = +beta * sigmoid(-margin) / rejected_length

    Args:
        beta: scale of the reward, > 0. The paper searches 2 to 2.5, and up to 10.
        gamma: margin the chosen reward should keep, >= 0. The paper searches 0.3 to 1.6.

    Returns:
        [B] one value per pair, nats, >= 0.

    Raises:
        ConfigError: `beta` is not above 0, or `gamma` is negative.

    Source:
        Meng, Xia, Chen: SimPO: Simple Preference Optimization with a Reference-Free Reward, 2024, arXiv 2405.14734,
        equation 6.

    Differs:
        no. The authors' code sets gamma as a ratio to beta; TRL defaults to beta 0.1 and, through `cpo_alpha=1`, adds
        an NLL term to what it calls SimPO.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-21 * one, chosen_lengths=5 * one, rejected_lengths=7 * one)
        >>> prefopt.get_loss("simpo", beta=2.0, gamma=0.5)(batch).losses
        tensor([0.2014])
    """

    name = "simpo"
    needs = prefopt.Needs(rows={"pairs"})
    learning_rates = (3e-7, 1e-6)  # the authors' README, model by model
    on_length = "compares mean log-probs per token"
    beta: float = prefopt.field(2.0, gt=0, tune=(1.0, 10.0))
    gamma: float = prefopt.field(0.5, ge=0, tune=(0.1, 2.0))

    def _margin(self, batch: prefopt.PreferenceBatch) -> Tensor:
        return self.beta * (batch.chosen.mean_logps - batch.rejected.mean_logps) - self.gamma

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """-log sigmoid(margin)."""
        return -logsigmoid(self._margin(batch))

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """The DPO weight, shared out over the tokens of each completion."""
        weight = self.beta * (-self._margin(batch)).sigmoid()
        return prefopt.Gradient(
            policy_chosen=-weight / batch.chosen.lengths.to(weight.dtype),
            policy_rejected=weight / batch.rejected.lengths.to(weight.dtype),
        )

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * mean log-prob per token."""
        return self.beta * completions.mean_logps


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `simpo`."""
    return [SimPO]
