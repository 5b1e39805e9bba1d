"""How far two language models are apart, on completions that one of them wrote or that the data holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prefopt.data.row import Row
from prefopt.data.trees import grow_rows
from prefopt.engine.head import Wanted
from prefopt.engine.logps import Scorer
from prefopt.evaluation.estimates import ratio_of


def kl_along(policy: Scorer, other: Scorer, samples: Sequence[Row], *, tokens_per_microbatch: int) -> Tensor:
    """[N] the KL(policy || other) of the next-token distributions, summed along each completion; nats, >= 0.

    By the chain rule its mean over completions that the policy wrote is KL(policy || other) of whole completions. It
    scatters less than the mean of the log-ratios of what was written, whose terms may be negative.

    Args:
        policy, other: two models over one vocabulary.
        samples: rows whose completions, N in all, are gone along; only scored tokens count.
        tokens_per_microbatch: memory budget.
    """
    # The engine knows KL(reference || policy) of the policy it scores; here the roles are exchanged.
    found = other.score(
        grow_rows(samples),
        tokens_per_microbatch=tokens_per_microbatch,
        wants=lambda part: Wanted(policy.logits(part)),
    )
    along = found.reference_kl
    assert along is not None
    return torch.segment_reduce(along, "sum", lengths=torch.tensor(found.lengths, device=along.device))


def divergence(along: Tensor, rows: Sequence[Row]) -> dict[str, Any]:
    """The KL of a completion and of a token, with standard errors that take the rows as independent.

    Args:
        along: [N] what `kl_along` gives for these rows.
        rows: weighted as they are; a row with several completions counts with their sum.
    """
    counts = [len(row.completions) for row in rows]
    totals = torch.stack([part.sum() for part in torch.split(along.double().cpu(), counts)])
    completions = torch.tensor(counts, dtype=torch.float64)
    tokens = torch.tensor([sum(own.num_scored for own in row.completions) for row in rows], dtype=torch.float64)
    weights = torch.tensor([row.weight for row in rows], dtype=torch.float64)
    counted = {"per_completion": completions, "per_token": tokens}
    found = {name: ratio_of(weights * totals, weights * count) for name, count in counted.items()}
    return {name: own.as_dict() for name, own in found.items()}
