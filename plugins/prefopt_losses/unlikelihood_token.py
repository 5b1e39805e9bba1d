"""Unlikelihood training, token by token."""

import math
from typing import Literal

import torch
from torch import Tensor

import prefopt


class UnlikelihoodToken(prefopt.PairLoss):
    """The NLL of the chosen completion plus the negative log-probability of avoiding each rejected token.

    loss = nll + alpha * -(sum over rejected tokens of log(1 - p)), p = e^logp; nll = -logp_chosen

    gradient: d/d chosen = -1, or -1 / chosen_length (`nll` "sequence"); d/d rejected token = +alpha * p / (1 - p)

    Args:
        alpha: weight of the unlikelihood term, > 0; without the term the loss is `sft`. The paper uses 1.
        nll: "sum" is the summed NLL per sequence; "sequence" is its mean over the tokens of each completion; "token"
            divides the summed NLL of the optimiser batch by its number of scored tokens.

    Returns:
        [B] one value per pair, nats, >= 0; +inf where a rejected token is certain. There are two terms, `nll` (its
        normaliser is the token counts for "token", else 1) and `unlikelihood` (normaliser 1).

    Raises:
        ConfigError: `alpha` is not above 0, or `nll` is none of the three.

    Source:
        Welleck et al.: Neural Text Generation with Unlikelihood Training, 2019, arXiv 1908.04319, the definition of
        the unlikelihood loss, with the rejected completion's tokens as the negative candidates.

    Differs:
        The paper's negative candidates are earlier tokens of the same text, penalised in the context of the
        demonstration; here each rejected token is penalised in its own context. A penalty on the rejected completion
        as a whole is `unlikelihood_seq`.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> tokens = prefopt.Tokens(torch.tensor([0.5, 0.75]).log(), torch.tensor([0, 2]))
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-2 * one, policy_rejected=tokens.sum(tokens.policy), chosen_lengths=2 * one,
        ...     rejected_lengths=2 * one, chosen_tokens=tokens, rejected_tokens=tokens)
        >>> prefopt.get_loss("unlikelihood_token")(batch).losses  # 2 - log(1/2) - log(1/4)
        tensor([4.0794])
    """

    name = "unlikelihood_token"
    needs = prefopt.Needs(rows={"pairs"}, tokens=True)
    alpha: float = prefopt.field(1.0, gt=0, tune=(0.01, 10.0))
    nll: Literal["sum", "sequence", "token"] = "sum"

    def values(self, batch: prefopt.PreferenceBatch) -> prefopt.LossOutput:
        """The NLL and the unlikelihood term."""
        rejected = batch.rejected.tokens
        assert rejected is not None
        unlikelihood = -self.alpha * rejected.sum(_log1mexp(rejected.policy))
        return prefopt.LossOutput.from_terms(
            nll=batch.chosen.nll(self.nll), unlikelihood=(unlikelihood, torch.ones_like(unlikelihood))
        )

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """The surer a rejected token, the harder it is pushed down: by its odds."""
        assert batch.rejected.tokens is not None
        logps = batch.rejected.tokens.policy
        return prefopt.Gradient(
            policy_chosen=batch.chosen.nll_slope(self.nll),
            # 0 - expm1, not -expm1: at p = 1 that is minus zero, and the quotient the infinity of the wrong sign.
            rejected_tokens=self.alpha * (logps.exp() / (0.0 - logps.expm1())),
        )

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """The log-prob."""
        return completions.policy


def _log1mexp(logps: Tensor) -> Tensor:
    """log(1 - e^logp), exact at both ends: expm1 where p is near 1, log1p where it is near 0."""
    # Each form sees its own half only: beyond it the slope of the unused one would be infinite, and 0 * inf is NaN.
    near, far = logps.clamp(min=-math.log(2)), logps.clamp(max=-math.log(2))
    return torch.where(logps > -math.log(2), (0.0 - near.expm1()).log(), torch.log1p(-far.exp()))


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `unlikelihood_token`."""
    return [UnlikelihoodToken]
