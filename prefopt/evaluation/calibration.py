"""Whether a policy is right as often as its rewards say, under the Bradley-Terry model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_NUM_BINS = 10


@dataclass(frozen=True)
class Bin:
    """Pairs whose favourite was given about the same chance.

    Attributes:
        low, high: the chances that fall in here: low <= chance < high; the last bin has 1 as well.
        share: of all weight.
        predicted: mean chance of the favourite.
        won: share of pairs whose favourite is the chosen side; a tie counts one half.
    """

    low: float
    high: float
    share: float
    predicted: float
    won: float


@dataclass(frozen=True)
class Calibration:
    """Predicted against observed.

    Attributes:
        bins: those that hold pairs, from chance 1/2 up.
        expected_error: expected calibration error: mean over bins of |predicted - won|, weighted by their shares.
        brier: mean of (1 - P(chosen))^2; 1/4 for a policy that knows nothing.
        log_loss: mean of -log P(chosen), nats; log 2 for a policy that knows nothing.
    """

    bins: tuple[Bin, ...]
    expected_error: float
    brier: float
    log_loss: float

    def as_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "expected_error": self.expected_error,
            "brier": self.brier,
            "log_loss": self.log_loss,
            "bins": [vars(own) for own in self.bins],
        }


def calibration(margins: Tensor, weights: Tensor) -> Calibration:
    """Hold P(chosen) = sigmoid(margin) against which side was chosen.

    Which side of a pair comes first says nothing, so a pair is binned by the chance of its favourite, max(P, 1 - P).

    Args:
        margins: [P] reward(chosen) - reward(rejected).
        weights: [P] > 0.

    Source:
        Naeini, Cooper, Hauskrecht: Obtaining Well Calibrated Probabilities Using Bayesian Binning, 2015 (ECE);
        Brier: Verification of forecasts expressed in terms of probability, 1950.

    >>> found = calibration(torch.tensor([2.0, 2.0, -2.0, 0.1]), torch.ones(4))
    >>> [(round(own.predicted, 3), round(own.won, 3)) for own in found.bins]
    [(0.525, 1.0), (0.881, 0.667)]
    """
    margins, weights = margins.detach().double().cpu(), weights.double().cpu()
    weights = weights / weights.sum()
    chance = torch.sigmoid(margins.abs())
    right = (margins.sign() + 1) / 2
    index = ((chance - 0.5) * 2 * _NUM_BINS).long().clamp(max=_NUM_BINS - 1)
    bins = []
    for number in sorted(set(index.tolist())):
        own = index == number
        share = weights[own].sum()
        bins.append(
            Bin(
                low=0.5 + number / (2 * _NUM_BINS),
                high=0.5 + (number + 1) / (2 * _NUM_BINS),
                share=float(share),
                predicted=float((weights * chance)[own].sum() / share),
                won=float((weights * right)[own].sum() / share),
            )
        )
    return Calibration(
        bins=tuple(bins),
        expected_error=sum(own.share * abs(own.predicted - own.won) for own in bins),
        brier=float((weights * torch.sigmoid(-margins).square()).sum()),
        log_loss=float((weights * torch.nn.functional.softplus(-margins)).sum()),
    )
