"""Preference optimisation over a random sample of tokens."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class SamPO(prefopt.PairLoss):
    """The DPO loss over equally many tokens of both completions: the longer one is sampled down.

    loss = -log sigmoid(margin), margin = beta * (R_chosen - R_rejected)
    R = sum over the kept tokens of (logp - reference_logp)
    kept: min(chosen_length, rejected_length) tokens of each completion, drawn without replacement

    gradient: d/d chosen token = -beta * sigmoid(-margin), d/d rejected token = +beta * sigmoid(-margin), where kept;
    0 elsewhere

    Args:
        beta: strength of the pull towards the reference, > 0. The paper uses 0.1.

    Returns:
        [B] one value per pair, nats, >= 0; ln 2 where the policy equals the reference. Draws are keyed by seed, step
        and row id, so a row keeps the same tokens wherever it stands in the batch, and others at the next step.

    Raises:
        ConfigError: `beta` is not above 0.

    Source:
        Lu et al.: Eliminating Biased Length Reliance of Direct Preference Optimization via Down-Sampled KL
        Divergence, 2024, arXiv 2406.10957, the definition of the SamPO loss.

    Differs:
        no: one draw serves policy and reference. The authors' code draws anew in each forward pass, so that the two
        are summed over different tokens.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> chosen, rejected = (
        ...     prefopt.Tokens(-torch.ones(n), torch.tensor([0, n]), reference=-k * torch.ones(n))
        ...     for n, k in ((4, 3), (2, 2)))
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-4 * one, policy_rejected=-2 * one, chosen_lengths=4 * one, rejected_lengths=2 * one,
        ...     reference_chosen=-12 * one, reference_rejected=-4 * one, chosen_tokens=chosen, rejected_tokens=rejected)
        >>> prefopt.get_loss("sampo", beta=0.1)(batch).losses  # margin 0.1 * (2 tokens * 2 - 2 tokens * 1)
        tensor([0.5981])
    """

    name = "sampo"
    needs = prefopt.Needs(rows={"pairs"}, reference=True, tokens=True)
    learning_rates = (4e-7, 1e-6)  # the authors' script
    on_length = "compares equally many tokens of both completions"
    beta: float = prefopt.field(0.1, gt=0, tune=(0.01, 1.0))

    def _margin(self, chosen: prefopt.Tokens, rejected: prefopt.Tokens, kept: tuple[Tensor, Tensor]) -> Tensor:
        kept_w, kept_l = kept
        return self.beta * (chosen.sum(chosen.log_ratio * kept_w) - rejected.sum(rejected.log_ratio * kept_l))

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """-log sigmoid(margin)."""
        chosen, rejected = _tokens(batch)
        return -logsigmoid(self._margin(chosen, rejected, _kept(batch)))

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """DPO's gradient on the kept tokens."""
        chosen, rejected = _tokens(batch)
        kept_w, kept_l = _kept(batch)
        slope = self.beta * (-self._margin(chosen, rejected, (kept_w, kept_l))).sigmoid()
        return prefopt.Gradient(
            chosen_tokens=-chosen.spread(slope) * kept_w,
            rejected_tokens=rejected.spread(slope) * kept_l,
        )

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio of all tokens: one completion alone has nothing to be sampled down to."""
        return self.beta * completions.log_ratio


def _tokens(batch: prefopt.PreferenceBatch) -> tuple[prefopt.Tokens, prefopt.Tokens]:
    chosen, rejected = batch.chosen.tokens, batch.rejected.tokens
    assert chosen is not None
    assert rejected is not None
    return chosen, rejected


def _kept(batch: prefopt.PreferenceBatch) -> tuple[Tensor, Tensor]:
    """[T] bool for each side: the tokens that count."""
    chosen, rejected = _tokens(batch)
    shared = torch.minimum(chosen.lengths, rejected.lengths)
    kept_w, kept_l = (
        _ranks(tokens, batch.draws.uniform(tokens.lengths.tolist(), stream=stream)) < tokens.spread(shared)
        for stream, tokens in enumerate((chosen, rejected))
    )
    return kept_w, kept_l


def _ranks(tokens: prefopt.Tokens, numbers: Tensor) -> Tensor:
    """[T] int64 rank of each token's number within its completion, from 0: the lowest m are a sample of m tokens."""
    by_number = numbers.to(tokens.policy.device).argsort()
    rows = tokens.spread(torch.arange(len(tokens.lengths), device=by_number.device))
    # Stable, so that within a row the order by number stays.
    order = by_number[rows[by_number].argsort(stable=True)]
    ranks = torch.empty_like(order)
    ranks[order] = tokens.places()
    return ranks


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `sampo`."""
    return [SamPO]
