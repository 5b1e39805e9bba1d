"""Binary classifier optimisation on labelled completions."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

import prefopt


class BCO(prefopt.LabelLoss):
    """The loss of a classifier that tells desirable from undesirable completions by their implicit reward less a shift.

    loss = -log sigmoid(R - shift) for desirable completions, R = beta * log_ratio
    loss = -undesirable_weight * log sigmoid(-(R - shift)) for undesirable ones
    shift = (running mean of R over desirable rows + the same over undesirable rows) / 2, a constant for the gradient

    gradient: -beta * sigmoid(-(R - shift)) or +beta * undesirable_weight * sigmoid(R - shift)

    Args:
        beta: strength of the pull towards the reference, > 0. The paper uses 0.01.
        shift: "midpoint" (the paper) is half way between the means of the two classes; "mean" is the mean over all
            rows, which leans towards the larger class.

    Returns:
        [N] one value per completion, nats, >= 0. `undesirable_weight` is a column of the data: the paper's density
        ratio of the prompt, 1 where it is absent. The state holds mean and total weight of each class over all steps
        so far. It is updated with the whole optimiser batch before use. While a class has never been seen the shift
        is the mean of the other.

    Raises:
        ConfigError: `beta` is not above 0, or `shift` is neither of the two.

    Source:
        Jung et al.: Binary Classifier Optimization for Large Language Model Alignment, 2024, arXiv 2404.04656, the
        BCO loss with its reward shift and its density ratio.

    Differs:
        no. TRL's trainer (removed in 2026) took the mean over all rows: `shift="mean"`.

    Example:
        >>> import torch, prefopt
        >>> batch = prefopt.PreferenceBatch.from_labels(
        ...     policy=torch.tensor([-10.0, -14.0]), reference=torch.tensor([-11.0, -12.0]),
        ...     lengths=torch.tensor([5, 7]), desirable=torch.tensor([True, False]))
        >>> prefopt.get_loss("bco", beta=0.1)(batch).losses
        tensor([0.6210, 0.6210])
    """

    name = "bco"
    needs = prefopt.Needs(rows={"labels"}, reference=True, coupled=True, state=True)
    beta: float = prefopt.field(0.01, gt=0, tune=(0.001, 1.0))
    shift: Literal["midpoint", "mean"] = "midpoint"

    def initial_state(self) -> Mapping[str, Tensor]:
        """No row seen yet."""
        names = ("desirable_mean", "desirable_weight", "undesirable_mean", "undesirable_weight")
        return {name: torch.zeros((), dtype=torch.float64) for name in names}

    def _updated(self, batch: prefopt.PreferenceBatch) -> dict[str, Tensor]:
        before = batch.state or self.initial_state()
        rewards = self.reward(batch.completions).detach().double()
        state: dict[str, Tensor] = {}
        for label, rows in (("desirable", batch.desirable), ("undesirable", ~batch.desirable)):
            mean, weights = before[f"{label}_mean"], batch.weights.double() * rows
            total = before[f"{label}_weight"] + weights.sum()
            step = (weights * (rewards - mean)).sum() / torch.where(total > 0, total, 1.0)
            state |= {f"{label}_mean": mean + step, f"{label}_weight": total}
        return state

    def _shift(self, state: Mapping[str, Tensor]) -> Tensor:
        good, bad = state["desirable_weight"], state["undesirable_weight"]
        if self.shift == "midpoint":
            good, bad = (good > 0).double(), (bad > 0).double()
        return (good * state["desirable_mean"] + bad * state["undesirable_mean"]) / (good + bad)

    def _sign_and_weight(self, batch: prefopt.PreferenceBatch) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(batch.completions.policy)
        weight = torch.where(batch.desirable, one, batch.undesirable_weight.to(one.dtype))
        return torch.where(batch.desirable, one, -one), weight

    def values(self, batch: prefopt.PreferenceBatch) -> prefopt.LossOutput:
        """A logistic loss on the side of the shift that the label names."""
        sign, weight = self._sign_and_weight(batch)
        state = self._updated(batch)
        shift = self._shift(state)
        losses = -weight * logsigmoid(sign * (self.reward(batch.completions) - shift))
        return prefopt.LossOutput(losses, metrics={"shift": shift.expand_as(losses)}, state=state)

    def gradient(self, batch: prefopt.PreferenceBatch) -> prefopt.Gradient:
        """Each completion weighs by how wrongly it is classified."""
        sign, weight = self._sign_and_weight(batch)
        margin = sign * (self.reward(batch.completions) - self._shift(self._updated(batch)))
        return prefopt.Gradient(policy=-sign * weight * self.beta * (-margin).sigmoid())

    def reward(self, completions: prefopt.Completions) -> Tensor:
        """Beta * log_ratio."""
        return self.beta * completions.log_ratio


@prefopt.hookimpl
def prefopt_register_losses() -> list[type[prefopt.Loss]]:
    """Registers `bco`."""
    return [BCO]
