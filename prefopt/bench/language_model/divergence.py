"""How far two language models are apart, on completions that one of them wrote."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prefopt.data.row import Row
from prefopt.data.trees import grow_rows
from prefopt.engine.head import Wanted
from prefopt.engine.logps import Scorer


def kl_along(policy: Scorer, other: Scorer, samples: Sequence[Row], *, tokens_per_microbatch: int) -> Tensor:
    """[N] the KL(policy || other) of the next-token distributions, summed along each completion; nats, >= 0.

    By the chain rule its mean over completions that the policy wrote is KL(policy || other) of whole completions. It
    scatters less than the mean of the log-ratios of what was written, whose terms may be negative.

    Args:
        policy, other: two models over one vocabulary.
        samples: one completion each, which the policy wrote.
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
