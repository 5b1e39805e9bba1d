"""What a model takes: its log-probs on shared prompts and with the chunked head, held against its own forward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from prefopt.data.row import Completion
from prefopt.data.trees import Tree
from prefopt.engine.attention import uninstall
from prefopt.engine.logps import Scorer

# Above the rounding of one forward pass (norms round to float32 even in float64 models), far below the effect of a
# wrong position, of branches that see each other, or of a logit cap left out.
_TOLERANCE_NATS = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
_NUM_PROOF_TOKENS = 32


def prove(model: PreTrainedModel, trees: Sequence[Tree]) -> tuple[Scorer, list[str]]:
    """A scorer that uses what the model was found to take, and a sentence for each thing it does not.

    The truth is the model's own forward on plain rows. A recurrent layer, positions that break or an attention that
    looks elsewhere show on packed trees; an unknown treatment of logits shows with the chunked head.

    Args:
        model: a causal language model.
        trees: a few trees, the longest of the run among them.
    """
    name, tolerance = type(model).__name__, _TOLERANCE_NATS[model.dtype]
    trees = [_shortened(tree) for tree in trees]
    truth = Scorer(model, packed=False, chunked_head=False)
    notes = []
    try:
        gap = _gap(Scorer(model, chunked_head=False), truth, trees)
        fault = None if gap <= tolerance else f"gives other log-probs on packed trees (by up to {gap:.2g} nats)"
    except Exception as error:  # whatever a model does with inputs it does not know
        fault = f"cannot read packed trees ({type(error).__name__}: {error})"
    if fault is not None:
        uninstall(model)
        notes.append(f"{name} {fault}: using plain rows, slower and as exact")
    chunked = Scorer(model, packed=False)
    if chunked.head is None:
        chunks = False
        notes.append(f"the head of {name} is no plain linear layer: its logits are computed all at once")
    else:
        gap = _gap(chunked, truth, trees)
        chunks = gap <= tolerance
        if not chunks:
            notes.append(
                f"{name} does more to its logits than the chunked head knows (by up to {gap:.2g} nats): they are "
                "computed all at once"
            )
    return Scorer(model, packed=fault is None, chunked_head=chunks), notes


def _shortened(tree: Tree) -> Tree:
    """Whole prompts, for what depends on length; few scored tokens, for the dense logits to stay small."""
    branches = [(slot, own.ids[:_NUM_PROOF_TOKENS]) for slot, own in tree.branches]
    return Tree(tree.prompt, tuple((slot, Completion(ids, (True,) * len(ids))) for slot, ids in branches))


def _gap(scorer: Scorer, truth: Scorer, trees: Sequence[Tree]) -> float:
    """The largest difference between two log-probs of one token, in nats; NaN counts as infinite."""
    tokens = sum(tree.num_tokens for tree in trees)  # all in one row
    one, other = (each.score(trees, tokens_per_microbatch=tokens) for each in (scorer, truth))
    return float((one.values - other.values).abs().nan_to_num(nan=torch.inf).max())
