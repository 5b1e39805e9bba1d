"""Whether a model takes the tree layout: its log-probs on a tree against those on plain rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from prefopt.data.trees import Tree
from prefopt.engine.logps import score
from prefopt.engine.microbatches import cut

# Above the rounding of one forward pass (norms round to float32 even in float64 models), far below the effect of a
# wrong position or of branches that see each other.
_TOLERANCE_NATS = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}


def tree_gap(model: PreTrainedModel, trees: Sequence[Tree]) -> float:
    """The largest difference, in nats, between a token's log-prob on a tree and on a plain row."""
    together = score(model, cut(trees, 2**62))
    alone = score(model, cut(trees, 1, shared_prompts=False))
    return float((together.values - alone.values).abs().max())


def takes_trees(model: PreTrainedModel, trees: Sequence[Tree]) -> tuple[bool, float]:
    """Whether the model gives the same log-probs on trees as on plain rows, and the gap in nats.

    Args:
        model: the policy.
        trees: a few trees, at least one of them with two branches that differ.
    """
    gap = tree_gap(model, trees)
    return gap <= _TOLERANCE_NATS[model.dtype], gap
