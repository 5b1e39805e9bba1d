"""What a model takes: its log-probs on packed trees and with the chunked head, held against its own forward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from prefopt.data.row import Completion
from prefopt.data.trees import Tree
from prefopt.engine.attention import uninstall
from prefopt.engine.logps import Scorer
from prefopt.engine.quantization import is_quantized
from prefopt.errors import ModelError

# Root mean square over tokens: above the rounding of one forward pass (norms round to float32 even in float64 models,
# and bfloat16 logits of 40 lie 0.25 apart), far below the effect of a wrong position, of branches that see each other,
# or of a logit cap left out.
TOLERANCE_NATS = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}
# Kernels for weights of 8 bits round activations to 8 bits too, together with those of neighbours.
_QUANTIZED_NATS = 0.2
_NUM_PROOF_TOKENS = 32


def prove(
    model: PreTrainedModel, trees: Sequence[Tree], *, autocast: torch.dtype | None = None
) -> tuple[Scorer, list[str]]:
    """A scorer that uses what the model was found to take, and a sentence for each thing it does not.

    The truth is the model's own forward on one prompt with one completion at a time. What depends on neighbours or
    padding shows on plain rows side by side; a recurrent layer, positions that break or an attention that looks
    elsewhere on packed trees; an unknown treatment of logits with the chunked head.

    Args:
        model: a causal language model.
        trees: a few trees, the longest of the run among them.
        autocast: precision of the products, where it is not that of the weights.

    Raises:
        ModelError: the model cannot be run on these rows, or what it predicts depends on what follows or lies beside.
    """
    name = type(model).__name__
    tolerance = max(TOLERANCE_NATS[autocast or model.dtype], _QUANTIZED_NATS if is_quantized(model) else 0.0)
    trees = [_sampled(tree) for tree in trees]
    together = sum(tree.num_tokens for tree in trees)
    try:
        truth = Scorer(model, packed=False, chunked_head=False, autocast=autocast).score(trees, tokens_per_microbatch=1)
    except Exception as error:  # whatever a model may raise
        raise ModelError(f"{name} cannot be run on a row of the data ({_told(error)})") from error

    def gap(**ways: bool) -> float:
        """How far the log-probs of tokens are from the truth, root mean square, in nats; NaN counts as infinite."""
        found = Scorer(model, **ways, autocast=autocast).score(
            trees, tokens_per_microbatch=max(together, _padded(trees))
        )
        return float((found.values - truth.values).square().mean().sqrt().nan_to_num(nan=torch.inf))

    beside = gap(packed=False, chunked_head=False)
    if not beside <= tolerance:
        raise ModelError(
            f"{name} predicts a token otherwise when rows lie side by side (by {beside:.2g} nats): it sees what "
            "follows, or rows of other lengths; it is no causal language model that can be trained in batches"
        )
    notes = []

    def takes(way: str, fault: str, instead: str, **ways: bool) -> bool:
        try:
            found = gap(**ways)
            reason = None if found <= tolerance else f"{fault} (by {found:.2g} nats)"
        except Exception as error:  # whatever a model does with inputs it does not know
            reason = f"cannot take {way} ({_told(error)})"
        if reason is not None:
            notes.append(f"{name} {reason}: {instead}")
        return reason is None

    packed = takes(
        "packed trees",
        "gives other log-probs on packed trees",
        "using plain rows, slower and as exact",
        packed=True,
        chunked_head=False,
    )
    if not packed:
        uninstall(model)
    if Scorer(model, packed=False).head is None:
        chunked = False
        notes.append(f"the head of {name} is no plain linear layer: its logits are computed all at once")
    else:
        chunked = takes(
            "a chunked head",
            "does more to its logits than the chunked head knows",
            "they are computed all at once",
            packed=False,
            chunked_head=True,
        )
    return Scorer(model, packed=packed, chunked_head=chunked, autocast=autocast), notes


def _sampled(tree: Tree) -> Tree:
    """Whole rows, for what depends on length; scored only where branches begin and end, for the dense logits' sake."""
    few = _NUM_PROOF_TOKENS // 2
    branches = []
    for slot, own in tree.branches:
        scored = tuple(place < few or place >= len(own.ids) - few for place in range(len(own.ids)))
        branches.append((slot, Completion(own.ids, scored)))
    return Tree(tree.prompt, tuple(branches))


def _padded(trees: Sequence[Tree]) -> int:
    """Tokens of all branches as plain rows side by side, padding included."""
    lengths = [len(tree.prompt) + len(own.ids) - 1 for tree in trees for _, own in tree.branches]
    return len(lengths) * max(lengths)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
