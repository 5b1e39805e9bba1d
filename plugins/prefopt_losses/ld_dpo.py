"""Length-desensitised direct preference optimisation."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class LDDPO(prefopt.PairLoss):
    """The DPO loss where the tokens by which one completion is longer than the other count less.

    loss = -log sigmoid(margin), margin = beta * (R_chosen - R_rejected)
    R = sum over tokens of scale * (logp - reference_logp)
    scale = 1 for the first min(chosen_length, rejected_length) tokens of a completion, alpha for those beyond

    gradient: d/d chosen token = -beta * sigmoid(-margin) * scale, d/d rejected token = +beta * sigmoid(-margin) * scale

    Args:
        beta: strength of the pull towards the reference, > 0.
        alpha: what a token beyond the shared length counts, from 0 (nothing) to 1 (as in DPO).
        scale_reference: scale the reference's log-probs as well as the policy's.

    Returns:
        [B] one value per pair, nats, >= 0; ln 2 where the policy equals the reference (with `scale_reference`).

    Raises:
        ConfigError: `beta` is not above 0, or `alpha` is not between 0 and 1.

    Source:
        Liu et al.: Length Desensitization in Direct Preference Optimization, 2024, arXiv 2409.06411, the definition
        of the modified likelihood.

    Differs:
        no. LLaMA-Factory scales the policy alone: `scale_reference=False`. TRL scales both.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> chosen, rejected = (
        ...     prefopt.Tokens(-torch.ones(n), torch.tensor([0, n]), reference=-2 * torch.ones(n)) for n in (4, 2))
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-4 * one, policy_rejected=-2 * one, chosen_lengths=4 * one, rejected_lengths=2 * one,
        ...     reference_chosen=-8 * one, reference_rejected=-4 * one, chosen_tokens=chosen, rejected_tokens=rejected)
        >>> prefopt.get_loss("ld_dpo", beta=0.1, alpha=0.5)(batch).losses  # margin 0.1 * ((2 + 0.5 * 2) - 2)
        tensor([0.6444])
    """

    name = "ld_dpo"
    needs = prefopt.Needs(rows={"pairs"}, reference=True, tokens=True)
    on_length = "scales the tokens down by which one completion is the longer"
    relations = (prefopt.Relation("dpo", where={"alpha": 1.0}),)
    beta: float = prefopt.field(0.1, gt=0, tune=(0.01, 1.0))
    alpha: float = prefopt.field(0.5, ge=0, le=1, tune=(0.1, 1.0))
    scale_reference: bool = True

    def _scales(self, chosen: prefopt.Tokens, rejected: prefopt.Tokens) -> tuple[Tensor, Tensor]:
        shared = torch.minimum(chosen.lengths, rejected.lengths)
        scale_w, scale_l = (
            torch.ones_like(tokens.policy).masked_fill(tokens.places() >= tokens.spread(shared), self.alpha)
            for tokens in (chosen, rejected)
        )
        return scale_w, scale_l

    def _log_ratio(self, tokens: prefopt.Tokens, scale: Tensor) -> Tensor:
        if self.scale_reference:
            return tokens.sum(scale * tokens.log_ratio)
        # The reference in full: the log-ratio, less what the scale takes from the policy.
        return tokens.sum(tokens.log_ratio - (1 - scale) * tokens.policy)

    def _margin(self, chosen: prefopt.Tokens, rejected: prefopt.Tokens) -> Tensor:
        scale_w, scale_l = self._scales(chosen, rejected)
        return self.beta * (self._log_ratio(chosen, scale_w) - self._log_ratio(rejected, scale_l))

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """-log sigmoid(margin)."""
        return -logsigmoid(self._margin(*_tokens(batch)))

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """DPO's gradient on every token, times alpha beyond the shared length."""
        chosen, rejected = _tokens(batch)
        scale_w, scale_l = self._scales(chosen, rejected)
        slope = self.beta * (-self._margin(chosen, rejected)).sigmoid()
        return prefopt.Gradient(
            chosen_tokens=-chosen.spread(slope) * scale_w,
            rejected_tokens=rejected.spread(slope) * scale_l,
        )

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio, every token in full: one completion alone has no shared length."""
        return self.beta * completions.log_ratio


def _tokens(batch: prefopt.PreferenceBatch) -> tuple[prefopt.Tokens, prefopt.Tokens]:
    chosen, rejected = batch.chosen.tokens, batch.rejected.tokens
    assert chosen is not None
    assert rejected is not None
    return chosen, rejected


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `ld_dpo`."""
    return [LDDPO]
