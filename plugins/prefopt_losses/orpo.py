"""Odds-ratio preference optimisation."""

from typing import Literal

import torch
from torch import Tensor

import prefopt


class ORPO(prefopt.PairLoss):
    """The NLL of the chosen completion plus the negative log-likelihood of the preference under log-odds.

    loss = nll + lambda_ * -log sigmoid(log_odds_chosen - log_odds_rejected)
    log_odds = a - log(1 - e^a), a = mean log-prob per token; nll = -a_chosen

    gradient, with p = e^a and w, l for chosen and rejected:
    d/d chosen   = -(1 + lambda_ * p_l / mix) / chosen_length
    d/d rejected = +lambda_ * p_l (1 - p_w) / ((1 - p_l) mix) / rejected_length
    mix = p_w (1 - p_l) + p_l (1 - p_w)

    Args:
        lambda_: weight of the odds-ratio term, > 0; without the term the loss is `sft`.
        nll: "sequence" (the paper) is the mean over the tokens of each completion; "token" divides the summed NLL of
            the optimiser batch by its number of scored tokens; "sum" is the summed NLL per sequence.

    Returns:
        [B] one value per pair, nats, >= 0; +inf where the rejected completion is certain. With "token" there are two
        terms, `nll` (normaliser: token counts) and `odds_ratio` (normaliser 1).

    Raises:
        ConfigError: `lambda_` is not above 0, or `nll` is none of the three.

    Source:
        Hong, Lee, Thorne: ORPO: Monolithic Preference Optimization without Reference Model, 2024, arXiv 2403.07691,
        equations 6 and 7.

    Differs:
        no. TRL and the authors' code take the NLL over prompt and completion, as a token mean over the batch; over
        completions alone that is `nll="token"`.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-21 * one, chosen_lengths=5 * one, rejected_lengths=7 * one)
        >>> prefopt.get_loss("orpo", lambda_=0.1)(batch).losses
        tensor([2.0289])
    """

    name = "orpo"
    needs = prefopt.Needs(rows={"pairs"})
    learning_rates = (5e-6, 5e-6)  # the authors' scripts
    on_length = "compares mean log-probs per token"
    lambda_: float = prefopt.field(0.1, gt=0, tune=(0.01, 1.0))
    nll: Literal["sequence", "token", "sum"] = "sequence"

    def values(self, batch: prefopt.PreferenceBatch) -> prefopt.LossOutput:
        """The NLL and the odds-ratio term."""
        chosen = batch.chosen
        odds_ratio = self.lambda_ * _negative_log_sigmoid_of_odds(chosen.mean_logps, batch.rejected.mean_logps)
        one = torch.ones_like(odds_ratio)
        if self.nll == "token":
            lengths = chosen.lengths.to(odds_ratio.dtype)
            return prefopt.LossOutput.from_terms(nll=(-chosen.policy, lengths), odds_ratio=(odds_ratio, one))
        nll = -chosen.policy if self.nll == "sum" else -chosen.mean_logps
        return prefopt.LossOutput.from_terms(nll=(nll, one), odds_ratio=(odds_ratio, one))

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """Written in log space: each factor may underflow alone."""
        a_w, a_l = _never_certain(batch.chosen.mean_logps), batch.rejected.mean_logps
        lengths_w, lengths_l = batch.chosen.lengths.to(a_w.dtype), batch.rejected.lengths.to(a_l.dtype)
        log_mix = torch.logaddexp(a_w + _log1mexp(a_l), a_l + _log1mexp(a_w))
        nll = torch.ones_like(a_w) if self.nll == "sequence" else lengths_w
        return prefopt.Gradient(
            policy_chosen=-(nll + self.lambda_ * (a_l - log_mix).exp()) / lengths_w,
            policy_rejected=self.lambda_ * (a_l + _log1mexp(a_w) - _log1mexp(a_l) - log_mix).exp() / lengths_l,
        )

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """The log-odds of the mean probability per token."""
        return completions.mean_logps - _log1mexp(completions.mean_logps)


def _log1mexp(a: Tensor) -> Tensor:
    """log(1 - e^a) for a <= 0."""
    # Not -expm1: at a = 0 that is minus zero, and the gradient would be the infinity of the wrong sign.
    return (0.0 - torch.expm1(a)).log()


def _never_certain(a: Tensor) -> Tensor:
    """Where both completions are exactly certain the ratio of odds is 0 / 0; a hair below 0 gives a limit."""
    # Wide enough that lambda_ / hair is still a number: autograd multiplies it by 0.
    hair = torch.finfo(a.dtype).tiny / torch.finfo(a.dtype).eps
    return a - (a + hair).clamp(min=0).detach()


def _negative_log_sigmoid_of_odds(a_w: Tensor, a_l: Tensor) -> Tensor:
    """log(1 + odds_l / odds_w) = log(mix / (p_w (1 - p_l))), without a difference of large numbers.

    With m the larger and n the smaller of the two, mix / e^m = (1 - e^n) + e^(n - m) (1 - e^m): two terms that are
    never negative, so nothing cancels when both completions are nearly certain.
    """
    a_w = _never_certain(a_w)
    larger, smaller = torch.maximum(a_w, a_l), torch.minimum(a_w, a_l)
    mix = -torch.expm1(smaller) - (smaller - larger).exp() * torch.expm1(larger)
    return larger + mix.log() - a_w - _log1mexp(a_l)


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `orpo`."""
    return [ORPO]
