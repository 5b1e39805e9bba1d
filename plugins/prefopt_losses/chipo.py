"""Chi-squared preference optimisation."""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class ChiPO(prefopt.PairLoss):
    """The negative log-likelihood of the preferences under the implicit reward of a chi-squared and KL divergence.

    loss = -log sigmoid(margin), margin = link(log_ratio_chosen) - link(log_ratio_rejected), kept within 2 r_max
    link(r) = beta * (e^r + r)

    gradient: d/d chosen = -beta * sigmoid(-margin) * (1 + e^log_ratio_chosen),
    d/d rejected = +beta * sigmoid(-margin) * (1 + e^log_ratio_rejected); both 0 where |margin| is beyond 2 r_max

    Args:
        beta: strength of the pull towards the reference, > 0.
        r_max: largest reward there is, in units of reward, > 0; margins beyond 2 r_max either way count as 2 r_max and
            have no gradient. Absent: no bound.

    Returns:
        [B] one value per pair, nats, >= 0; ln 2 where the policy equals the reference. Without `r_max` it grows
        exponentially with the log_ratio of the rejected completion.

    Raises:
        ConfigError: `beta` or `r_max` is not above 0.

    Source:
        Huang et al.: Correcting the Mythos of KL-Regularization: Direct Alignment without Overoptimization via
        Chi-Squared Preference Optimization, 2024, arXiv 2407.13399, algorithm 1.

    Differs:
        `r_max` is off by default, as the paper gives no one value for it. oxRL has no `r_max`. Not in TRL.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("chipo", beta=0.1)(batch).losses
        tensor([0.4525])
    """

    name = "chipo"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)
    beta: float = prefopt.field(0.1, gt=0, tune=(0.01, 1.0))
    r_max: float | None = prefopt.field(None, gt=0, tune=(0.1, 10.0))

    def _margin(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        # Beta goes into the exponent, so that nothing overflows but what is too large with it.
        powers = prefopt.difference_of_powers(math.log(self.beta) + chosen, math.log(self.beta) + rejected)
        return powers + self.beta * (chosen - rejected)

    def _flat(self, margin: Tensor) -> Tensor:
        """[B] bool: the margin is so far out that the loss no longer moves with it."""
        return margin.isposinf() if self.r_max is None else margin.abs() > 2 * self.r_max

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """-log sigmoid(margin)."""
        chosen, rejected = _log_ratio(batch.chosen), _log_ratio(batch.rejected)
        # Where the loss is flat, autograd would multiply its slope of 0 by that of the link, which may be infinite.
        flat = self._flat(self._margin(chosen.detach(), rejected.detach()))
        chosen, rejected = (torch.where(flat, ratio.detach(), ratio) for ratio in (chosen, rejected))
        margin = self._margin(chosen, rejected)
        if self.r_max is not None:
            margin = margin.clamp(-2 * self.r_max, 2 * self.r_max)
        return -logsigmoid(margin).to(batch.chosen.policy.dtype)

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """Written in log space: sigmoid(-margin) may vanish where the slope of the link, 1 + e^r, overflows."""
        chosen, rejected = _log_ratio(batch.chosen), _log_ratio(batch.rejected)
        margin = self._margin(chosen, rejected)
        log_weight = math.log(self.beta) + logsigmoid(-margin)
        log_weight = log_weight.masked_fill(self._flat(margin), -math.inf)
        pull, push = ((log_weight - logsigmoid(-ratio)).exp() for ratio in (chosen, rejected))
        dtype = batch.chosen.policy.dtype
        return prefopt.Gradient(policy_chosen=-pull.to(dtype), policy_rejected=push.to(dtype))

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * (e^log_ratio + log_ratio)."""
        return (math.log(self.beta) + completions.log_ratio).exp() + self.beta * completions.log_ratio


def _log_ratio(completions: prefopt.Completions) -> Tensor:
    """[N] in float64: two that are the same in fewer digits may be powers of e apart in what follows."""
    assert completions.reference is not None
    return completions.policy.double() - completions.reference.detach().double()


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `chipo`."""
    return [ChiPO]
