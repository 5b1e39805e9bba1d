"""Weighted preference optimisation."""

from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class WPO(prefopt.PairLoss):
    """The DPO loss of each pair, weighted by how likely the current policy is to have written it.

    loss = weight * -log sigmoid(margin), margin = beta * (log_ratio_chosen - log_ratio_rejected)
    weight = min(1, w_chosen * w_rejected), a constant for the gradient
    w = exp(mean over tokens of (logp - log_sum_squares)), log_sum_squares = log of the sum of p^2 over the vocabulary

    gradient: d/d chosen = -beta * weight * sigmoid(-margin), d/d rejected = +beta * weight * sigmoid(-margin)

    Args:
        beta: strength of the pull towards the reference, > 0. The paper uses 0.01.
        clamp: weigh no pair by more than 1, as the authors do.

    Returns:
        [B] one value per pair, nats, >= 0; weight * ln 2 where the policy equals the reference. A token drawn from
        the policy has an expected p / (sum of p^2) of 1, so a completion the policy would write weighs about 1.

    Raises:
        ConfigError: `beta` is not above 0.

    Source:
        Zhou et al.: WPO: Enhancing RLHF with Weighted Preference Optimization, 2024, arXiv 2406.11827, the weights
        with sampled alignment, equation 2.

    Differs:
        no. TRL does not clamp the product: `clamp=False`.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> tokens = prefopt.Tokens(-2 * torch.ones(5), torch.tensor([0, 5]), log_sum_squares=-torch.ones(5))
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-10 * one, chosen_lengths=5 * one, rejected_lengths=5 * one,
        ...     reference_chosen=-10 * one, reference_rejected=-10 * one, chosen_tokens=tokens, rejected_tokens=tokens)
        >>> prefopt.get_loss("wpo", beta=0.01)(batch).losses  # e^-1 * e^-1 * ln 2
        tensor([0.0938])
    """

    name = "wpo"
    needs = prefopt.Needs(rows={"pairs"}, reference=True, tokens=True, distribution="policy")
    learning_rates = (5e-7, 1e-6)  # the authors' training configs
    beta: float = prefopt.field(0.01, gt=0, tune=(0.001, 0.1))
    clamp: bool = True

    def _weight(self, batch: prefopt.PreferenceBatch) -> Tensor:
        log_weight = _mean_log_weight(batch.chosen) + _mean_log_weight(batch.rejected)
        return (log_weight.clamp(max=0) if self.clamp else log_weight).exp().detach()

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """Weight * -log sigmoid(margin)."""
        return self._weight(batch) * -logsigmoid(self.beta * batch.gap)

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """DPO's gradient, each pair times its weight."""
        slope = self.beta * self._weight(batch) * (-self.beta * batch.gap).sigmoid()
        return prefopt.Gradient(policy_chosen=-slope, policy_rejected=slope)

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


def _mean_log_weight(completions: prefopt.Completions) -> Tensor:
    """[N] log of how likely the policy is to write the completion, per token and next to its own samples."""
    tokens = completions.tokens
    assert tokens is not None
    assert tokens.log_sum_squares is not None
    return tokens.sum(tokens.policy - tokens.log_sum_squares) / tokens.lengths


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `wpo`."""
    return [WPO]
