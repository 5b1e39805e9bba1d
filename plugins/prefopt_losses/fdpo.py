"""f-DPO: DPO under another divergence from the reference than the reverse KL."""

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class FDPO(prefopt.PairLoss):
    """The negative log-likelihood of the preferences under the implicit reward of an f-divergence.

    loss = -log sigmoid(margin), margin = beta * (f'(u_chosen) - f'(u_rejected)), u = e^log_ratio

    f'(u) = log u for reverse_kl, 1 - 1/u for forward_kl, log(2u / (1 + u)) for jensen_shannon,
    (1 - u^-alpha) / alpha for alpha

    gradient: d/d chosen = -beta * sigmoid(-margin) * slope(log_ratio_chosen),
    d/d rejected = +beta * sigmoid(-margin) * slope(log_ratio_rejected), slope(r) = u f''(u): 1 for reverse_kl, e^-r for
    forward_kl, sigmoid(-r) for jensen_shannon, e^(-alpha r) for alpha

    Args:
        beta: strength of the pull towards the reference, > 0.
        divergence: "reverse_kl" is `dpo`; "alpha" lies between it (alpha to 0) and "forward_kl" (alpha to 1).
        alpha: order of the divergence "alpha", between 0 and 1, both excluded; absent: 0.5. An error with any other
            divergence, which would not read it.

    Returns:
        [B] one value per pair, nats, >= 0; ln 2 where the policy equals the reference. With forward_kl and alpha it
        grows exponentially with -log_ratio of the chosen completion.

    Raises:
        ConfigError: `beta` is not above 0, `divergence` is none of the four, `alpha` is not between 0 and 1, or is
            given with another divergence than "alpha".

    Source:
        Wang, Jiang, Yang, Liu, Chen: Beyond Reverse KL: Generalizing Direct Preference Optimization with Diverse
        Divergence Constraints, 2023, arXiv 2309.16240, the definition of the f-DPO loss and the table of divergences.

    Differs:
        no, but for a constant that cancels: each f' is taken to be 0 at u = 1, where the paper has log u + 1 and -1/u.
        TRL up to 0.28 has the paper's alpha with a default of 1; from 0.29 on its coefficient is 1 - alpha, so that
        the two agree at 0.5 alone. Its forward_kl is NaN where both powers overflow, and its alpha divergence stops
        growing at e^80.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("fdpo", beta=0.1, divergence="jensen_shannon")(batch).losses
        tensor([0.6066])
    """

    name = "fdpo"
    needs = prefopt.Needs(rows={"pairs"}, reference=True)
    relations = (prefopt.Relation("dpo", where={"divergence": "reverse_kl"}),)
    beta: float = prefopt.field(0.1, gt=0, tune=(0.01, 1.0))
    divergence: Literal["reverse_kl", "forward_kl", "jensen_shannon", "alpha"] = "reverse_kl"
    alpha: float | None = prefopt.field(None, gt=0, lt=1, tune=(0.1, 0.9))

    def model_post_init(self, context: Any, /) -> None:
        """Refuses an `alpha` that nothing would read."""
        if self.alpha is not None and self.divergence != "alpha":
            raise ValueError(
                f"alpha = {self.alpha!r} is read with divergence 'alpha' alone, and divergence = {self.divergence!r}; "
                "leave out one or the other"
            )

    @property
    def _order(self) -> float:
        """The alpha of which forward_kl is the end."""
        if self.divergence == "forward_kl":
            return 1.0
        return 0.5 if self.alpha is None else self.alpha

    def _margin(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        if self.divergence == "reverse_kl":
            return self.beta * (chosen - rejected)
        if self.divergence == "jensen_shannon":
            return self.beta * (logsigmoid(chosen) - logsigmoid(rejected))
        # The scale goes into the exponent, so that nothing overflows but what is too large with it.
        log_scale = math.log(self.beta / self._order)
        return prefopt.difference_of_powers(log_scale - self._order * rejected, log_scale - self._order * chosen)

    def _log_slope(self, log_ratio: Tensor) -> Tensor:
        """[N] log(u f''(u))."""
        if self.divergence == "reverse_kl":
            return torch.zeros_like(log_ratio)
        return logsigmoid(-log_ratio) if self.divergence == "jensen_shannon" else -self._order * log_ratio

    def values(self, batch: prefopt.PreferenceBatch) -> Tensor:
        """-log sigmoid(margin)."""
        chosen, rejected = _log_ratio(batch.chosen), _log_ratio(batch.rejected)
        # Where the margin overflows the loss is flat, and autograd would multiply its slope of 0 by infinity.
        flat = self._margin(chosen.detach(), rejected.detach()).isposinf()
        chosen, rejected = (torch.where(flat, ratio.detach(), ratio) for ratio in (chosen, rejected))
        return -logsigmoid(self._margin(chosen, rejected)).to(batch.chosen.policy.dtype)

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """Written in log space: sigmoid(-margin) may vanish where the slope overflows."""
        chosen, rejected = _log_ratio(batch.chosen), _log_ratio(batch.rejected)
        log_weight = math.log(self.beta) + logsigmoid(-self._margin(chosen, rejected))
        pull, push = ((log_weight + self._log_slope(ratio)).exp() for ratio in (chosen, rejected))
        dtype = batch.chosen.policy.dtype
        return prefopt.Gradient(policy_chosen=-pull.to(dtype), policy_rejected=push.to(dtype))

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * f'(u), 0 where the policy equals the reference."""
        log_ratio = completions.log_ratio
        if self.divergence == "reverse_kl":
            return self.beta * log_ratio
        if self.divergence == "jensen_shannon":
            return self.beta * (math.log(2) + logsigmoid(log_ratio))
        return -self.beta / self._order * torch.expm1(-self._order * log_ratio)


def _log_ratio(completions: prefopt.Completions) -> Tensor:
    """[N] in float64: two that are the same in fewer digits may be powers of e apart in what follows."""
    assert completions.reference is not None
    return completions.policy.double() - completions.reference.detach().double()


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `fdpo`."""
    return [FDPO]
