"""DPO with a beta that follows the batch, and with a filter on outliers."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class BetaDPO(prefopt.PairLoss):
    """The DPO loss of the pairs that a random filter keeps, at a beta set by how far their gaps lie above the average.

    loss = m * -log sigmoid(batch_beta * gap), gap = log_ratio_chosen - log_ratio_rejected
    batch_beta = max(0.001, beta * (1 + alpha * (mean gap of the kept pairs - mean)))
    m = 1 for the pairs kept, 0 for the others; both are constants for the gradient

    A share `keep` of the pairs is drawn without replacement with weights exp(-(gap - mean)^2 / (2 std^2)). `mean` and
    `std` are exponential moving averages of the batch's mean gap and standard deviation.

    gradient: d/d chosen = -m * batch_beta * sigmoid(-batch_beta * gap), d/d rejected = the negative

    Args:
        beta: strength of the pull towards the reference at an average batch, > 0. The paper uses 0.1.
        alpha: how strongly beta follows the gap, per nat, >= 0. The paper uses 0.6; 0 keeps beta.
        keep: share of the pairs kept, 0 < keep <= 1. The paper uses 0.8; 1 keeps all.
        momentum: of the moving averages, 0 <= momentum < 1. The authors' code uses 0.9.

    Returns:
        [B] one value per pair, nats, >= 0, 0 for pairs left out. The one term `preference` has m as normaliser: the
        mean runs over the pairs kept. The state, `mean` and `std`, is updated with the whole optimiser batch before
        use. Each pair's draw is keyed by seed, step and row id, so the choice does not depend on the order of rows.
        Of a total weight W (the number of pairs, unless weighted) ceil((1 - keep) W) is left out and at least 1 kept;
        a weighted pair on the edge is kept in part, as some of so many copies would be.

    Raises:
        ConfigError: a hyper-parameter is outside its range.

    Source:
        Wu et al.: beta-DPO: Direct Preference Optimization with Dynamic beta, 2024, arXiv 2407.08639, batch-level
        dynamic beta and beta-guided data filtering, in the detail of https://github.com/junkangwu/beta-DPO.

    Differs:
        no. As in the authors' code the gap is not multiplied by beta and both averages start at 0, so early gaps count
        as large; the code's averages also move in evaluation, these do not. oxRL sets beta for each pair alone.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("beta_dpo", beta=0.1)(batch).losses
        tensor([0.3755])
    """

    name = "beta_dpo"
    needs = prefopt.Needs(rows={"pairs"}, reference=True, coupled=True, state=True)
    learning_rates = (5e-7, 5e-7)  # the authors' code
    relations = (prefopt.Relation("dpo", where={"alpha": 0.0, "keep": 1.0}),)
    beta: float = prefopt.field(0.1, gt=0, tune=(0.01, 1.0))
    alpha: float = prefopt.field(0.6, ge=0, tune=(0.1, 1.0))
    keep: float = prefopt.field(0.8, gt=0, le=1, tune=(0.5, 1.0))
    momentum: float = prefopt.field(0.9, ge=0, lt=1)

    def initial_state(self) -> Mapping[str, Tensor]:
        """Both averages start at 0."""
        return {"mean": torch.zeros((), dtype=torch.float64), "std": torch.zeros((), dtype=torch.float64)}

    def _updated(self, batch: prefopt.PreferenceBatch) -> dict[str, Tensor]:
        state, gap = batch.state or self.initial_state(), batch.gap.detach().double()
        found = {"mean": batch.mean(gap), "std": batch.std(gap)}
        return {name: self.momentum * state[name] + (1 - self.momentum) * new for name, new in found.items()}

    def _kept(self, batch: prefopt.PreferenceBatch, state: Mapping[str, Tensor]) -> Tensor:
        """[B] the part of each pair that is kept, m."""
        gap = batch.gap.detach().double()
        std = torch.where(state["std"] > 0, state["std"], torch.inf)
        log_weights = -((gap - state["mean"]) / std).square() / 2
        # Drawing without replacement keeps the smallest of exponential times with these rates; their logs, since all
        # rates may underflow.
        times = -batch.draws.uniform([1] * len(batch)).to(gap.device).log()
        order = (times.log() - log_weights).argsort(stable=True)
        weights = batch.weights.double()[order]
        # 1e-9: what rounding may add to a whole number.
        quota = (weights.sum() - ((1 - self.keep) * weights.sum() - 1e-9).ceil()).clamp(min=1)
        kept = ((quota - (weights.cumsum(0) - weights)) / weights).clamp(0, 1)
        return torch.zeros_like(gap).index_copy(0, order, kept)

    def _beta_and_kept(self, batch: prefopt.PreferenceBatch, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        kept = self._kept(batch, state)
        lead = batch.mean(kept * (batch.gap.detach().double() - state["mean"])) / batch.mean(kept)
        return (self.beta * (1 + self.alpha * lead)).clamp(min=1e-3), kept.to(batch.chosen.policy.dtype)

    def values(self, batch: prefopt.PreferenceBatch) -> prefopt.LossOutput:
        """DPO at the batch's beta, over the pairs kept."""
        state = self._updated(batch)
        beta, kept = self._beta_and_kept(batch, state)
        losses = kept * -logsigmoid(beta * batch.gap)
        return prefopt.LossOutput(
            losses,
            terms={"preference": (losses, kept)},
            metrics={"batch_beta": beta.expand_as(losses), "kept": kept},
            state=state,
        )

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """DPO's, at the batch's beta, for the pairs kept."""
        beta, kept = self._beta_and_kept(batch, self._updated(batch))
        pull = kept * beta * (-beta * batch.gap).sigmoid()
        return prefopt.Gradient(policy_chosen=-pull, policy_rejected=pull)

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio, at the beta of an average batch."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `beta_dpo`."""
    return [BetaDPO]
