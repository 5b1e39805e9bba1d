"""Binary classifier optimisation on pairs."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class BCOPair(prefopt.PairLoss):
    """The loss of a classifier that tells chosen from rejected completions by their implicit reward, less a shift.

    loss = -log sigmoid(R_chosen - shift) - log sigmoid(-(R_rejected - shift)), R = beta * log_ratio
    shift = running mean of (R_chosen + R_rejected) / 2, a constant for the gradient

    gradient: d/d chosen = -beta * sigmoid(-(R_chosen - shift)), d/d rejected = +beta * sigmoid(R_rejected - shift)

    Args:
        beta: strength of the pull towards the reference, > 0. The paper uses 0.01.

    Returns:
        [B] one value per pair, nats, >= 0; 2 ln 2 where the policy equals the reference. The state holds the `mean`
        over all rows of all steps so far and their total `weight`. It is updated with the whole optimiser batch
        before use.

    Raises:
        ConfigError: `beta` is not above 0.

    Source:
        Jung et al.: Binary Classifier Optimization for Large Language Model Alignment, 2024, arXiv 2404.04656, the
        BCO loss with its reward shift.

    Differs:
        no. TRL from 0.29 on leaves the shift out; up to 0.28 it kept a running mean as here.

    Example:
        >>> import torch, prefopt
        >>> one = torch.ones(1)
        >>> batch = prefopt.PreferenceBatch.from_pairs(
        ...     policy_chosen=-10 * one, policy_rejected=-14 * one, chosen_lengths=5 * one, rejected_lengths=7 * one,
        ...     reference_chosen=-11 * one, reference_rejected=-12 * one)
        >>> prefopt.get_loss("bco_pair", beta=0.1)(batch).losses
        tensor([1.2419])
    """

    name = "bco_pair"
    needs = prefopt.Needs(rows={"pairs"}, reference=True, coupled=True, state=True)
    beta: float = prefopt.field(0.01, gt=0, tune=(0.001, 1.0))

    def initial_state(self) -> Mapping[str, Tensor]:
        """No row seen yet."""
        return {"mean": torch.zeros((), dtype=torch.float64), "weight": torch.zeros((), dtype=torch.float64)}

    def _updated(self, batch: prefopt.PreferenceBatch) -> dict[str, Tensor]:
        state = batch.state or self.initial_state()
        rewards = (self.reward(batch.chosen).double() + self.reward(batch.rejected).double()) / 2
        new = batch.weights.double().sum()
        weight = state["weight"] + new
        mean = state["mean"] + new / weight * (batch.mean(rewards) - state["mean"])
        return {"mean": mean.detach(), "weight": weight.detach()}

    def values(self, batch: prefopt.PreferenceBatch) -> prefopt.LossOutput:
        """One logistic loss on either side of the shift."""
        state = self._updated(batch)
        shift = state["mean"]
        losses = -logsigmoid(self.reward(batch.chosen) - shift) - logsigmoid(shift - self.reward(batch.rejected))
        return prefopt.LossOutput(losses, metrics={"shift": shift.expand_as(losses)}, state=state)

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """Each side weighs by how wrongly it is classified, whatever the other side does."""
        shift = self._updated(batch)["mean"]
        return prefopt.Gradient(
            policy_chosen=-self.beta * (shift - self.reward(batch.chosen)).sigmoid(),
            policy_rejected=self.beta * (self.reward(batch.rejected) - shift).sigmoid(),
        )

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `bco_pair`."""
    return [BCOPair]
