"""Log-probs of completions under a causal language model.

Shapes: N scored tokens, S slots (completions of one optimiser batch), H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from prefopt.data.trees import Tree
from prefopt.engine.head import read_head
from prefopt.engine.layout import Layout, lay_out
from prefopt.engine.microbatches import cut


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


class Scorer(nn.Module):
    """A causal language model as the engine uses it: laid-out completions in, log-probs out.

    Backbone and head both run inside `forward`, so that whatever wraps the module sees the whole computation.

    Attributes:
        model: the model.
        head: its head, computed in chunks; None: the model's own forward computes all scored logits at once.
        shared_prompts: whether completions of one prompt are laid out as branches of one row.
    """

    def __init__(self, model: PreTrainedModel, *, shared_prompts: bool = True, chunked_head: bool = True) -> None:
        """Wrap a model; `prefopt.engine.parity.prove` finds out which ways it takes.

        Args:
            model: a causal language model.
            shared_prompts: False lays every completion out as a plain row with its own copy of the prompt.
            chunked_head: False, or a head that is no plain linear layer, leaves the logits to the model.
        """
        super().__init__()
        self.model = model
        self.shared_prompts = shared_prompts
        self.head = read_head(model) if chunked_head else None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def forward(self, layout: Layout) -> Tensor:
        """[N] log-prob of every scored token of the layout, at least float32, nats."""
        inputs = layout.model_inputs(self.model.dtype)
        if self.head is not None:
            hidden_RTH = self.model.base_model(**inputs, use_cache=False).last_hidden_state
            return self.head.token_logps(hidden_RTH[layout.rows_N, layout.columns_N], layout.targets_N)
        with _head_reads(self.model, layout):
            logits_NV = self.model(**inputs, use_cache=False).logits
        if logits_NV.dtype in (torch.bfloat16, torch.float16):
            logits_NV = logits_NV.float()
        return -cross_entropy(logits_NV, layout.targets_N, reduction="none")

    @torch.no_grad()
    def score(self, trees: Iterable[Tree], *, tokens_per_microbatch: int) -> TokenLogps:
        """Log-probs of every slot of the trees, without gradient, in the order of the slots."""
        pieces: dict[int, Tensor] = {}
        for microbatch in cut(trees, tokens_per_microbatch, shared_prompts=self.shared_prompts):
            layout = lay_out(microbatch, self.device)
            pieces |= by_slot(layout, self(layout))
        return TokenLogps.gather(pieces)


def by_slot(layout: Layout, values: Tensor) -> dict[int, Tensor]:
    """Slot -> its [n] part of the layout's `values` [N]."""
    return dict(zip(layout.slots, torch.split(values, list(layout.lengths)), strict=True))


@contextmanager
def _head_reads(model: PreTrainedModel, layout: Layout) -> Iterator[None]:
    """While open, the model's own head sees only what predicts scored tokens."""
    head: nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]

    def select(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        return (inputs[0][layout.rows_N, layout.columns_N],)

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
