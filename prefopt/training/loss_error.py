"""How far the loss of a batch may lie from the mean over all rows."""

from __future__ import annotations

import torch

from prefopt.engine.accumulation import StepResult


@torch.no_grad()
def loss_error(result: StepResult) -> float | None:
    """The standard error of a step's loss, its rows taken as drawn independently; None for fewer than two.

    Each term is a ratio of weighted sums, so a row's influence on it is w (value - term * normaliser) / sum of w *
    normaliser (the delta method); the error is the root of the sum of the squared influences, times n / (n - 1).

    Source:
        Cochran: Sampling Techniques, 3rd edition, 1977, section 2.11.
    """
    output, assembly = result.output, result.assembly
    num_rows = len(output.losses)
    if num_rows < 2:
        return None
    weights = torch.tensor([assembly.rows[owner].weight for owner in assembly.owners], dtype=torch.float64)
    influence = torch.zeros(num_rows, dtype=torch.float64)
    for values, normaliser in output.all_terms().values():
        values, normaliser = values.cpu().double(), normaliser.cpu().double()
        total = (weights * normaliser).sum()
        influence += weights * (values - (weights * values).sum() / total * normaliser) / total
    return float((influence.square().sum() * num_rows / (num_rows - 1)).sqrt())
