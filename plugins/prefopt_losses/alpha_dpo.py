"""SimPO with a target margin that follows each pair's gap to the reference."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class AlphaDPO(prefopt.PairLoss):
    """The negative log-likelihood that the mean log-prob leads by a margin, larger where the gap is above average.

    loss = -log sigmoid(beta * (a_chosen - a_rejected - gamma - alpha * z)), a = log-prob per token
    z = (gap - mean) / std, gap = log-ratio per token, chosen less rejected; z is a constant for the gradient

    `mean` and `std` are exponential moving averages of the batch's mean gap and standard deviation.

    gradient, with margin the argument of the sigmoid: d/d chosen = -beta * sigmoid(-margin) / chosen_length,
    d/d rejected = +beta * sigmoid(-margin) / rejected_length

    Args:
        beta: scale of the margin, > 0. The authors use 2.5 (Llama 3, Mistral) and 10 (Gemma 2).
        gamma: target lead where the gap is average, nats per token, >= 0; it is multiplied by beta. The authors use
            0.6 (Llama 3) down to 0.15.
        alpha: how strongly the target follows the gap, nats per token, >= 0; 0 is SimPO. The authors use 0.2 (Llama 3)
            and 0.05.
        momentum: of the moving averages, 0 <= momentum < 1. The authors' code uses 0.9.

    Returns:
        [B] one value per pair, nats, >= 0. The state, `mean` and `std`, is updated with the whole optimiser batch
        before use. Where std is 0, as on a lone first pair, z is 0.

    Raises:
        ConfigError: a hyper-parameter is outside its range.

    Source:
        Wu et al.: alpha-DPO: Adaptive Reward Margin is What Direct Preference Optimization Needs, 2024,
        arXiv 2410.10148, in the detail of https://github.com/junkangwu/alpha-DPO.

    Differs:
        no. As in the authors' code both averages start at 0, so that z is too large over the first tens of steps. Not
        to be confused with f-DPO's alpha-divergence (`fdpo`) or AlphaPO (`alphapo`).

    Example:
        >>> import torch, prefopt
        >>> two = torch.tensor([1.0, 1.0])
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * two, policy_rejected=-14 * two, chosen_lengths=5 * two, rejected_lengths=7 * two,
        ...     reference_chosen=torch.tensor([-11.0, -12.0]), reference_rejected=-14 * two)
        >>> prefopt.get_loss("alpha_dpo")(batch).losses
        tensor([ 7.5110, 14.5815])
    """

    name = "alpha_dpo"
    needs = prefopt.Needs(rows={"pairs"}, reference=True, coupled=True, state=True)
    learning_rates = (6e-7, 1e-6)  # the authors' training configs
    on_length = "compares mean log-probs per token"
    relations = (
        prefopt.Relation("simpo", where={"alpha": 0.0, "beta": 2.5, "gamma": 0.6}, given={"beta": 2.5, "gamma": 1.5}),
    )
    beta: float = prefopt.field(2.5, gt=0, tune=(1.0, 10.0))
    gamma: float = prefopt.field(0.6, ge=0, tune=(0.1, 1.0))
    alpha: float = prefopt.field(0.2, ge=0, tune=(0.01, 0.5))
    momentum: float = prefopt.field(0.9, ge=0, lt=1)

    def initial_state(self) -> Mapping[str, Tensor]:
        """Both averages start at 0."""
        return {"mean": torch.zeros((), dtype=torch.float64), "std": torch.zeros((), dtype=torch.float64)}

    def _margin_and_state(self, batch: prefopt.PreferenceBatch) -> tuple[Tensor, dict[str, Tensor]]:
        before = batch.state or self.initial_state()
        gap = (batch.chosen.mean_log_ratio - batch.rejected.mean_log_ratio).detach().double()
        found = {"mean": batch.mean(gap), "std": batch.std(gap)}
        state = {name: self.momentum * before[name] + (1 - self.momentum) * new for name, new in found.items()}
        z = (gap - state["mean"]) / torch.where(state["std"] > 0, state["std"], torch.inf)
        lead = batch.chosen.mean_logps - batch.rejected.mean_logps
        return self.beta * (lead - (self.gamma + self.alpha * z).to(lead.dtype)), state

    def values(self, batch: prefopt.PreferenceBatch) -> prefopt.LossOutput:
        """-log sigmoid(margin)."""
        margin, state = self._margin_and_state(batch)
        return prefopt.LossOutput(-logsigmoid(margin), state=state)

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """SimPO's, at the margin of each pair."""
        margin, _ = self._margin_and_state(batch)
        weight = self.beta * (-margin).sigmoid()
        return prefopt.Gradient(
            policy_chosen=-weight / batch.chosen.lengths.to(weight.dtype),
            policy_rejected=weight / batch.rejected.lengths.to(weight.dtype),
        )

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log-prob per token."""
        return self.beta * completions.mean_logps


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `alpha_dpo`."""
    return [AlphaDPO]
