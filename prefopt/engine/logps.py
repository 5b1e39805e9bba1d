"""Log-probs of completions under a causal language model.

Shapes: N scored tokens, S slots (completions of one optimiser batch), H hidden, V vocabulary, K statistics of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from prefopt.data.trees import Tree, split
from prefopt.engine.attention import install
from prefopt.engine.head import Logits, Wanted, read_head
from prefopt.engine.layout import Layout, lay_out
from prefopt.engine.microbatches import cut
from prefopt.engine.ranks import ALONE, Ranks
from prefopt.engine.transfer import placed


@dataclass(frozen=True)
class TokenLogps:
    """Per-token log-probs of S completions, slot after slot.

    Attributes:
        values: [N] nats; or [N, K] with what else a loss reads of the distribution: the log-prob, then
            `log_sum_squares`, then `reference_kl` and the reference's log-prob.
        lengths: scored tokens of each slot.
    """

    values: Tensor
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> Tensor:
        """[N] the log-prob of every scored token."""
        return self.values if self.values.dim() == 1 else self.values[:, 0]

    @property
    def log_sum_squares(self) -> Tensor | None:
        """[N] log of the sum of squared probabilities of the next-token distribution, where it was wanted."""
        return None if self.values.dim() == 1 else self.values[:, 1]

    @property
    def reference_kl(self) -> Tensor | None:
        """[N] KL(reference || policy) of the next-token distributions, where it was wanted."""
        return None if self.values.dim() == 1 or self.values.shape[1] < 3 else self.values[:, 2]

    @property
    def reference(self) -> TokenLogps | None:
        """The reference's log-probs, where its distributions were wanted."""
        if self.values.dim() == 1 or self.values.shape[1] < 4:
            return None
        return TokenLogps(self.values[:, 3].detach(), self.lengths)

    @property
    def offsets(self) -> Tensor:
        """[S + 1] where each slot begins, and the end."""
        return placed([0, *accumulate(self.lengths)], self.values.device)

    @property
    def sums(self) -> Tensor:
        """[S] log-probs summed over each completion's scored tokens."""
        lengths = placed(self.lengths, self.values.device)
        # "unsafe" leaves out the check that the lengths add up, which would wait for the GPU.
        return torch.segment_reduce(self.tokens, "sum", lengths=lengths, unsafe=True)

    def split(self) -> tuple[Tensor, ...]:
        """One tensor [n] or [n, K] per slot."""
        return torch.split(self.values, list(self.lengths))

    @classmethod
    def gather(cls, pieces: dict[int, Tensor]) -> TokenLogps:
        """Put per-slot pieces in the order of their slots."""
        ordered = [pieces[slot] for slot in sorted(pieces)]
        return cls(torch.cat(ordered), tuple(len(piece) for piece in ordered))


@dataclass(frozen=True)
class DenseLogits:
    """Logits that a model computed all at once.

    Attributes:
        logits_NV: at least float32.
    """

    logits_NV: Tensor

    def chunk(self, place: slice) -> Tensor:
        """[C, V] those of the tokens at `place`."""
        return self.logits_NV[place]


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
        autocast: precision of the products, where it is not that of the weights; log-probs are float32 at least.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        packed: bool = True,
        chunked_head: bool = True,
        autocast: torch.dtype | None = None,
    ) -> None:
        """Wrap a model; `prefopt.engine.parity.prove` finds out which ways it takes.

        Args:
            model: a causal language model; with `packed` it learns to attend over trees.
            packed: False lays every completion out as a plain row with its own copy of the prompt.
            chunked_head: False, or a head that is no plain linear layer, leaves the logits to the model.
            autocast: bfloat16 or float16, for a model whose weights are float32.
        """
        super().__init__()
        self.model = model
        self.packed = packed
        self.autocast = autocast
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

    def forward(self, layout: Layout, wanted: Wanted | None = None) -> Tensor:
        """[N] log-prob of every scored token of the layout, or [N, K] with what else is wanted; nats, float32 at least.

        What comes out is one tensor, so that whatever wraps the module finds it.
        """
        if self.head is not None:
            return self.head.token_logps(self._hidden(layout), layout.targets_N, wanted)
        logits_NV = self._dense_logits(layout)
        logps_N = -cross_entropy(logits_NV, layout.targets_N, reduction="none")
        if wanted is None:
            return logps_N
        policy_NV = logits_NV.log_softmax(1)
        found = [logps_N, (2 * policy_NV.detach()).logsumexp(1)]
        if wanted.reference is not None:
            reference_NV = wanted.reference.chunk(slice(None)).log_softmax(1)
            found.append((reference_NV.exp() * (reference_NV - policy_NV)).sum(1).clamp(min=0))
            found.append(reference_NV.gather(1, layout.targets_N[:, None])[:, 0])
        return torch.stack(found, 1)

    @torch.no_grad()
    def logits(self, trees: Sequence[Tree]) -> Logits:
        """The logits of every scored token of the trees, branch after branch, without gradient."""
        if not self.packed:
            trees = [piece for tree in trees for piece in split(tree, 0)]
        layout = self.lay_out(trees)
        if self.head is not None:
            return self.head.logits(self._hidden(layout))
        return DenseLogits(self._dense_logits(layout))

    def _hidden(self, layout: Layout) -> Tensor:
        with self._products():
            hidden_RTH: Tensor = self.model.base_model(**layout.model_inputs, use_cache=False).last_hidden_state
        hidden_NH = hidden_RTH.flatten(0, 1).index_select(0, layout.places_N)
        return hidden_NH if self.autocast is None else hidden_NH.to(self.autocast)

    def _products(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)

    def _dense_logits(self, layout: Layout) -> Tensor:
        with self._products(), _head_reads(self.model, layout):
            logits_NV: Tensor = self.model(**layout.model_inputs, use_cache=False).logits
        return logits_NV.float() if logits_NV.dtype in (torch.bfloat16, torch.float16) else logits_NV

    @torch.no_grad()
    def score(
        self,
        trees: Sequence[Tree],
        *,
        tokens_per_microbatch: int,
        ranks: Ranks = ALONE,
        wants: Callable[[Sequence[Tree]], Wanted | None] = lambda _: None,
    ) -> TokenLogps:
        """Log-probs of every slot of the trees, without gradient, in the order of the slots; each rank computes a part.

        Every rank runs as many forward passes as any other: a sharded model gathers its weights in each.

        Args:
            trees: whose completions.
            tokens_per_microbatch: memory budget.
            ranks: who shares the work.
            wants: a micro-batch -> what else is wanted of its tokens.
        """
        microbatches = self.cut(trees, tokens_per_microbatch, ranks)
        own = []
        for microbatch in microbatches[ranks.index :: ranks.count]:
            part = microbatch or microbatches[0][:1]
            values = self(self.lay_out(part), wants(part))
            if microbatch:
                own.append(values)
        return collect(torch.cat(own) if own else values[:0], microbatches, ranks)


def collect(own: Tensor, microbatches: Sequence[Sequence[Tree]], ranks: Ranks) -> TokenLogps:
    """The log-probs of all slots from what each rank computed.

    Args:
        own: [n] or [n, K], the log-probs of this rank's micro-batches, laid out one after another.
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
    """Slot -> its part, [n] or [n, K], of the layout's `values`."""
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
