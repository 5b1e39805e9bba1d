"""Token-level direct preference optimisation, second form."""

from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class TDPO2(prefopt.PairLoss):
    """The DPO loss with a margin that is lowered by a share of the rejected side's KL beyond the chosen side's.

    loss = -log sigmoid(margin)
    margin = beta * (log_ratio_chosen - log_ratio_rejected - alpha * (K_rejected - K_chosen))
    K = sum over positions of KL(reference || policy) of the next-token distributions; K_chosen is a constant for the
    gradient

    gradient: d/d chosen = -beta * sigmoid(-margin), d/d rejected = +beta * sigmoid(-margin),
    d/d K_rejected = +alpha * beta * sigmoid(-margin); each position's KL takes the slope of its K

    Args:
        beta: strength of the pull towards the reference, > 0. The paper uses 0.1.
        alpha: weight of the difference of the KLs, >= 0; without it the loss is `dpo`. The paper uses 0.5.

    Returns:
        [B] one value per pair, nats, >= 0; ln 2 where the policy equals the reference.

    Raises:
        ConfigError: `beta` is not above 0, or `alpha` is negative.

    Source:
        Zeng et al.: Token-level Direct Preference Optimization, 2024, arXiv 2404.11999, the definition of the TDPO2
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
        >>> prefopt.get_loss("tdpo2", beta=0.1, alpha=0.5)(batch).losses  # margin 0.1 * (0 - 0.5 * (2 - 1))
        tensor([0.7185])
    """

    name = "tdpo2"
    needs = prefopt.Needs(rows={"pairs"}, reference=True, tokens=True, distribution="both")
    learning_rates = (5e-6, 5e-6)  # the authors' code
    relations = (prefopt.Relation("dpo", where={"alpha": 0.0}),)
    beta: float = prefopt.field(0.1, gt=0, tune=(0.01, 1.0))
    alpha: float = prefopt.field(0.5, ge=0, tune=(0.1, 2.0))

    def _margin(self, batch: prefopt.PreferenceBatch) -> Tensor:
        return self.beta * (batch.gap - self.alpha * (_kl(batch.rejected) - _kl(batch.chosen).detach()))

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """-log sigmoid(margin)."""
        return -logsigmoid(self._margin(batch))

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """DPO's gradient, and a pull on the rejected side's KL alone."""
        slope = self.beta * (-self._margin(batch)).sigmoid()
        rejected = batch.rejected.tokens
        assert rejected is not None
        return prefopt.Gradient(
            policy_chosen=-slope,
            policy_rejected=slope,
            rejected_reference_kl=rejected.spread(self.alpha * slope),
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
    """Registers `tdpo2`."""
    return [TDPO2]
