"""Log-probs of completions under a causal language model.

Shapes: N scored tokens, S slots (completions of one optimiser batch), H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from prefopt.data.trees import Tree
from prefopt.engine.attention import install
from prefopt.engine.head import read_head
from prefopt.engine.layout import Layout, lay_out
from prefopt.engine.microbatches import cut
from prefopt.engine.ranks import ALONE, Ranks
from prefopt.engine.transfer import placed


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
        return placed([0, *accumulate(self.lengths)], self.values.device)

    @property
    def sums(self) -> Tensor:
        """[S] log-probs summed over each completion's scored tokens."""
        lengths = placed(self.lengths, self.values.device)
        # "unsafe" leaves out the check that the lengths add up, which would wait for the GPU.
        return torch.segment_reduce(self.values, "sum", lengths=lengths, unsafe=True)

    def split(self) -> tuple[Tensor, ...]:
        """One [n] tensor per slot."""
        return torch.split(self.values, list(self.lengths))

    @classmethod
    def gather(cls, pieces: dict[int, Tensor]) -> TokenLogps:
        """Put per-slot pieces in the order of their slots."""
        ordered = [pieces[slot] for slot in sorted(pieces)]
        return cls(torch.cat(ordered), tuple(len(piece) for piece in ordered))


class LogpSource(Protocol):
    """Where log-probs come from: a model, or values scored before."""

    def score(self, trees: Sequence[Tree], *, tokens_per_microbatch: int, ranks: Ranks = ALONE) -> TokenLogps:
        """Log-probs of every slot of the trees, without gradient, in the order of the slots."""


class Scorer(nn.Module):
    """A causal language model as the engine uses it: laid-out completions in, log-probs out.

    Backbone and head both run inside `forward`, so that whatever wraps the module sees the whole computation.

    Attributes:
        model: the model.
        head: its head, computed in chunks; None: the model's own forward computes all scored logits at once.
        packed: whether trees are laid out as they are, one after another in one row.
    """

    def __init__(self, model: PreTrainedModel, *, packed: bool = True, chunked_head: bool = True) -> None:
        """Wrap a model; `prefopt.engine.parity.prove` finds out which ways it takes.

        Args:
            model: a causal language model; with `packed` it learns to attend over trees.
            packed: False lays every completion out as a plain row with its own copy of the prompt.
            chunked_head: False, or a head that is no plain linear layer, leaves the logits to the model.
        """
        super().__init__()
        self.model = model
        self.packed = packed
        self.head = read_head(model) if chunked_head and model.base_model is not model else None
        if packed:
            install(model)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def cut(self, trees: Iterable[Tree], tokens_per_microbatch: int, ranks: Ranks = ALONE) -> list[list[Tree]]:
        """The micro-batches of all ranks."""
        return cut(trees, tokens_per_microbatch, packed=self.packed, num_ranks=ranks.count)

    def lay_out(self, trees: Sequence[Tree]) -> Layout:
        """One micro-batch as this model takes it."""
        return lay_out(trees, self.device, packed=self.packed)

    def forward(self, layout: Layout) -> Tensor:
        """[N] log-prob of every scored token of the layout, at least float32, nats."""
        inputs = layout.model_inputs
        if self.head is not None:
            hidden_RTH = self.model.base_model(**inputs, use_cache=False).last_hidden_state
            return self.head.token_logps(hidden_RTH.flatten(0, 1).index_select(0, layout.places_N), layout.targets_N)
        with _head_reads(self.model, layout):
            logits_NV = self.model(**inputs, use_cache=False).logits
        if logits_NV.dtype in (torch.bfloat16, torch.float16):
            logits_NV = logits_NV.float()
        return -cross_entropy(logits_NV, layout.targets_N, reduction="none")

    @torch.no_grad()
    def score(self, trees: Sequence[Tree], *, tokens_per_microbatch: int, ranks: Ranks = ALONE) -> TokenLogps:
        """Log-probs of every slot of the trees, without gradient, in the order of the slots; each rank computes a part.

        Every rank runs as many forward passes as any other: a sharded model gathers its weights in each.
        """
        microbatches = self.cut(trees, tokens_per_microbatch, ranks)
        own = []
        for microbatch in microbatches[ranks.index :: ranks.count]:
            values = self(self.lay_out(microbatch or microbatches[0][:1]))
            if microbatch:
                own.append(values)
        return collect(torch.cat(own) if own else values[:0], microbatches, ranks)


def collect(own: Tensor, microbatches: Sequence[Sequence[Tree]], ranks: Ranks) -> TokenLogps:
    """The log-probs of all slots from what each rank computed.

    Args:
        own: [n] the log-probs of this rank's micro-batches, laid out one after another.
        microbatches: those of all ranks.
        ranks: who computed which.
    """
    branches = [
        [branch for part in microbatches[rank :: ranks.count] for tree in part for branch in tree.branches]
        for rank in range(ranks.count)
    ]
    lengths = [[completion.num_scored for _, completion in found] for found in branches]
    pieces: dict[int, Tensor] = {}
    for values, found, counts in zip(ranks.gather(own, list(map(sum, lengths))), branches, lengths, strict=True):
        pieces |= zip((slot for slot, _ in found), torch.split(values, counts), strict=True)
    return TokenLogps.gather(pieces)


def by_slot(layout: Layout, values: Tensor) -> dict[int, Tensor]:
    """Slot -> its [n] part of the layout's `values` [N]."""
    return dict(zip(layout.slots, torch.split(values, list(layout.lengths)), strict=True))


@contextmanager
def _head_reads(model: PreTrainedModel, layout: Layout) -> Iterator[None]:
    """While open, the model's own head sees only what predicts scored tokens."""
    head: nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]

    def select(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        return (inputs[0].flatten(0, 1).index_select(0, layout.places_N),)

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
