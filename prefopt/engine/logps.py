"""Log-probs of completions under a causal language model.

Shapes: N scored tokens, S slots (completions of one optimiser batch), H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from prefopt.data.trees import Tree
from prefopt.engine.layout import Layout, lay_out


@dataclass(frozen=True)
class TokenLogps:
    """Per-token log-probs of S completions, slot after slot.

    Attributes:
        values: [N] nats.
        lengths: scored tokens of each slot.
    """

    values: Tensor
    lengths: tuple[int, ...]

    @property
    def offsets(self) -> Tensor:
        """[S + 1] where each slot begins, and the end."""
        return torch.tensor([0, *accumulate(self.lengths)], device=self.values.device)

    @property
    def sums(self) -> Tensor:
        """[S] log-probs summed over each completion's scored tokens."""
        lengths = torch.tensor(self.lengths, device=self.values.device)
        return torch.segment_reduce(self.values, "sum", lengths=lengths)

    def split(self) -> tuple[Tensor, ...]:
        """One [n] tensor per slot."""
        return torch.split(self.values, list(self.lengths))

    @classmethod
    def gather(cls, pieces: dict[int, Tensor]) -> TokenLogps:
        """Put per-slot pieces in the order of their slots."""
        ordered = [pieces[slot] for slot in sorted(pieces)]
        return cls(torch.cat(ordered), tuple(len(piece) for piece in ordered))


def layout_logps(model: PreTrainedModel, layout: Layout) -> Tensor:
    """[N] log-prob of every scored token of the layout, at least float32, with gradient where it is enabled."""
    with _head_reads(model, layout):
        logits_NV = model(**layout.model_inputs(model.dtype), use_cache=False).logits
    if logits_NV.dtype in (torch.bfloat16, torch.float16):
        logits_NV = logits_NV.float()
    return -cross_entropy(logits_NV, layout.targets_N, reduction="none")


@torch.no_grad()
def score(model: PreTrainedModel, microbatches: Sequence[Sequence[Tree]]) -> TokenLogps:
    """Log-probs of every slot of the micro-batches, without gradient, in the order of the slots."""
    pieces: dict[int, Tensor] = {}
    for trees in microbatches:
        layout = lay_out(trees, model.device)
        pieces |= by_slot(layout, layout_logps(model, layout))
    return TokenLogps.gather(pieces)


def by_slot(layout: Layout, values: Tensor) -> dict[int, Tensor]:
    """Slot -> its [n] part of the layout's `values` [N]."""
    return dict(zip(layout.slots, torch.split(values, list(layout.lengths)), strict=True))


@contextmanager
def _head_reads(model: PreTrainedModel, layout: Layout) -> Iterator[None]:
    """While open, the model's own head (scaling and soft-capping included) sees only what predicts scored tokens."""
    head: nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]

    def select(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        return (inputs[0][layout.rows_N, layout.columns_N],)

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
