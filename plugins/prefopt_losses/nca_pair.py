"""Noise contrastive alignment on pairs."""

from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class NCAPair(prefopt.PairLoss):
    """The negative log-likelihood of telling each completion of a pair from noise, the chosen one being the better.

    loss = -log sigmoid(r_chosen) - log sigmoid(-r_chosen) / 2 - log sigmoid(-r_rejected) / 2, r = beta * log_ratio

    gradient: d/d chosen = beta * (sigmoid(r_chosen) / 2 - sigmoid(-r_chosen)),
    d/d rejected = +beta * sigmoid(r_rejected) / 2

    Args:
        beta: strength of the pull towards the reference, > 0. The paper uses 0.01.

    Returns:
        [B] one value per pair, nats, > 0; 2 ln 2 where the policy equals the reference. The chosen reward is pulled
        to ln 2 and never beyond, so that the likelihood of the chosen completion cannot sink with that of the rejected.

    Raises:
        ConfigError: `beta` is not above 0.

    Source:
        Chen, He, Yuan, Cui, Su, Zhu: Noise Contrastive Alignment of Language Models with Explicit Rewards, 2024,
        arXiv 2402.05369, the NCA loss for pairs.

    Differs:
        no.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("nca_pair", beta=0.01)(batch).losses
        tensor([1.3788])
    """

    name = "nca_pair"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)
    beta: float = prefopt.field(0.01, gt=0, tune=(0.001, 0.1))

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """Three binary cross-entropies."""
        chosen, rejected = self.reward(batch.chosen), self.reward(batch.rejected)
        return -logsigmoid(chosen) - logsigmoid(-chosen) / 2 - logsigmoid(-rejected) / 2

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """The chosen slope changes sign at a reward of ln 2, the rejected one never."""
        chosen, rejected = self.reward(batch.chosen), self.reward(batch.rejected)
        return prefopt.Gradient(
            policy_chosen=self.beta * (chosen.sigmoid() / 2 - (-chosen).sigmoid()),
            policy_rejected=self.beta * rejected.sigmoid() / 2,
        )

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `nca_pair`."""
    return [NCAPair]
