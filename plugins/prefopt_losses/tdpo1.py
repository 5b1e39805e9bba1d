"""Token-level direct preference optimisation, first form."""

from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class TDPO1(prefopt.PairLoss):
    """The DPO loss with a margin that is lowered where the policy left the reference further on the rejected side.

    loss = -log sigmoid(margin)
    margin = beta * (log_ratio_chosen - log_ratio_rejected - (K_rejected - K_chosen))
    K = sum over positions of KL(reference || policy) of the next-token distributions

    gradient: d/d chosen = d/d K_chosen = -beta * sigmoid(-margin), d/d rejected = d/d K_rejected = the negative;
    each position's KL takes the slope of its K

    Args:
        beta: strength of the pull towards the reference, > 0. The paper uses 0.1.

    Returns:
        [B] one value per pair, nats, >= 0; ln 2 where the policy equals the reference.

    Raises:
        ConfigError: `beta` is not above 0.

    Source:
        Zeng et al.: Token-level Direct Preference Optimization, 2024, arXiv 2404.11999, the definition of the TDPO1
        loss.

    Differs:
        no. Other names for K: sequential KL divergence, position KL (the authors' code).

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> chosen, rejected = (
        ...     prefopt.Tokens(-torch.ones(2), torch.tensor([0, 2]), reference=-torch.ones(2),
        ...                    reference_kl=k * torch.ones(2)) for k in (0.5, 1.0))
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-2 * one, policy_rejected=-2 * one, chosen_lengths=2 * one, rejected_lengths=2 * one,
        ...     reference_chosen=-2 * one, reference_rejected=-2 * one, chosen_tokens=chosen, rejected_tokens=rejected)
        >>> prefopt.get_loss("tdpo1", beta=0.1)(batch).losses  # margin 0.1 * (0 - (2 - 1))
        tensor([0.7444])
    """

    name = "tdpo1"
    needs = prefopt.Needs(rows={"pairs"}, reference=True, tokens=True, distribution="both")
    learning_rates = (5e-6, 5e-6)  # the authors' code
    beta: float = prefopt.field(0.1, gt=0, tune=(0.01, 1.0))

    def _margin(self, batch: prefopt.PreferenceBatch) -> Tensor:
        return self.beta * (batch.gap - (_kl(batch.rejected) - _kl(batch.chosen)))

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """-log sigmoid(margin)."""
        return -logsigmoid(self._margin(batch))

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """One slope per pair: the KLs enter the margin as the log-ratios do."""
        slope = self.beta * (-self._margin(batch)).sigmoid()
        chosen, rejected = batch.chosen.tokens, batch.rejected.tokens
        assert chosen is not None
        assert rejected is not None
        return prefopt.Gradient(
            policy_chosen=-slope,
            policy_rejected=slope,
            chosen_reference_kl=chosen.spread(-slope),
            rejected_reference_kl=rejected.spread(slope),
        )

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


def _kl(completions: prefopt.Completions) -> Tensor:
    """[N] KL(reference || policy) summed over the positions of each completion."""
    tokens = completions.tokens
    assert tokens is not None
    assert tokens.reference_kl is not None
    return tokens.sum(tokens.reference_kl)


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `tdpo1`."""
    return [TDPO1]
