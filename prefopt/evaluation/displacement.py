"""Where training moved the log-probs of the data's own completions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prefopt.data.row import Row
from prefopt.engine.assembly import Assembly
from prefopt.engine.logps import TokenLogps
from prefopt.evaluation.estimates import Estimate, mean_of, ratio_of
from prefopt.evaluation.intervals import wilson


@dataclass(frozen=True)
class Displacement:
    """The completions of one side.

    Attributes:
        log_ratio: log-prob under the policy minus that under the reference, nats a completion.
        per_token: the same, nats a scored token.
        share_fell: of completions whose log-prob is lower than the reference's; equal ones count one half.
        interval: the 95 % Wilson interval of `share_fell`.
        num_tokens: scored tokens of a completion.
    """

    log_ratio: Estimate
    per_token: Estimate
    share_fell: float
    interval: tuple[float, float]
    num_tokens: Estimate

    def as_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "log_ratio": self.log_ratio.as_dict(),
            "log_ratio_per_token": self.per_token.as_dict(),
            "share_fell": self.share_fell,
            "share_fell_interval": list(self.interval),
            "num_tokens": self.num_tokens.as_dict(),
        }


def displacements(assembly: Assembly, policy: TokenLogps, reference: TokenLogps) -> dict[str, Displacement]:
    """What happened to each side of the data, with rows weighted as they are.

    Args:
        assembly: the rows.
        policy, reference: the log-probs of all its slots.

    Returns:
        `chosen`: of a ranking the best, of labels the desirable ones, of demonstrations all. `rejected`: of a ranking
        the worst, of labels the undesirable ones. A side that is not there is left out.
    """
    ratios = policy.sums - reference.sums
    lengths = torch.tensor(policy.lengths, dtype=ratios.dtype, device=ratios.device)
    found = {}
    for place, side in enumerate(("chosen", "rejected")):
        own = [(row, slots[place]) for row, slots in _sides(assembly) if slots[place] is not None]
        if own:
            slots = torch.tensor([slot for _, slot in own], device=ratios.device)
            weights = ratios.new_tensor([row.weight for row, _ in own])
            found[side] = _displacement(ratios[slots], lengths[slots], weights)
    return found


def _sides(assembly: Assembly) -> list[tuple[Row, tuple[int | None, int | None]]]:
    """(chosen slot, rejected slot) of every row."""
    found: list[tuple[Row, tuple[int | None, int | None]]] = []
    for row, first in zip(assembly.rows, assembly.starts, strict=True):
        if row.kind == "pairs":
            found.append((row, (first, first + 1)))
        elif row.kind == "rankings":
            scores = [float("-inf") if own.score is None else own.score for own in row.completions]
            best, worst = scores.index(max(scores)), scores.index(min(scores))
            found.append((row, (first + best, first + worst)))
        elif row.kind == "labels" and not row.desirable:
            found.append((row, (None, first)))
        else:
            found.append((row, (first, None)))
    return found


def _displacement(ratios: Tensor, lengths: Tensor, weights: Tensor) -> Displacement:
    fell = (1 - ratios.sign()) / 2
    share = float((weights * fell).sum() / weights.sum())
    effective = float(weights.sum() ** 2 / weights.square().sum())  # Kish
    return Displacement(
        log_ratio=mean_of(ratios, weights),
        per_token=ratio_of(weights * ratios, weights * lengths),
        share_fell=share,
        interval=wilson(share * effective, effective),
        num_tokens=mean_of(lengths, weights),
    )
