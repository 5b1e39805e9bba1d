"""The language-model head on scored tokens only, in chunks, so that the logits of all tokens never exist together.

Shapes: N scored tokens, C tokens of a chunk, H hidden, V vocabulary, K statistics of a token (`TokenLogps.values`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefopt.engine.adapted import active

# 64 MiB of float32 logits at a time, 256 MiB on a GPU: large enough for full-speed products, small beside activations.
_CHUNK_ELEMENTS = {"cpu": 2**24, "cuda": 2**26}


class Logits(Protocol):
    """The logits of N tokens, a chunk at a time."""

    def chunk(self, place: slice) -> Tensor:
        """[C, V] those of the tokens at `place`, at least float32, without gradient; theirs until the next call."""


@dataclass(frozen=True)
class Wanted:
    """What a loss reads of the next-token distribution beside the log-prob of the token itself.

    Attributes:
        reference: the reference's logits of the same tokens, for KL(reference || policy) and the reference's own
            log-probs; None: the sum of squares alone is wanted.
    """

    reference: Logits | None = None


class _Scratch:
    """Room for the logits of one chunk, kept from call to call: fresh pages for it cost more than the product itself.

    Attributes:
        owner: whose exponentials lie in it, until another call writes there.
    """

    owner: object = None

    def __init__(self) -> None:
        self._room: Tensor | None = None

    def take(self, rows: int, like_VH: Tensor, dtype: torch.dtype) -> Tensor:
        """[rows, V] of this dtype, with anything in it."""
        needed, room = rows * like_VH.shape[0], self._room
        if room is None or room.numel() < needed or room.dtype != dtype or room.device != like_VH.device:
            room = self._room = torch.empty(needed, dtype=dtype, device=like_VH.device)
        self.owner = None
        return room[:needed].view(rows, -1)


@dataclass(frozen=True)
class Head:
    """A linear head and what the model does to its logits.

    Attributes:
        linear: the output embeddings, tied or not, with or without bias.
        multiplier: the logits are multiplied by it first.
        softcap: then capped to softcap * tanh(logits / softcap); None: they are not.
    """

    linear: nn.Linear
    multiplier: float = 1.0
    softcap: float | None = None
    _scratch: _Scratch = field(default_factory=_Scratch, repr=False, compare=False)

    def token_logps(self, hidden_NH: Tensor, targets_N: Tensor, wanted: Wanted | None = None) -> Tensor:
        """[N] log-probs of the targets, or [N, K] with what else is wanted; at least float32, nats.

        Products are taken in the precision of the hidden states. Gradient flows through the log-probs and the KL.
        """
        weight = self.linear.weight.to(hidden_NH.dtype)
        statistics_NK: Tensor = _TokenStatistics.apply(  # type: ignore[no-untyped-call]
            hidden_NH,
            weight,
            self.linear.bias,
            targets_N,
            self.multiplier,
            self.softcap,
            _chunk(weight) // (1 if wanted is None else 4) or 1,
            self._scratch,
            wanted,
        )
        return statistics_NK[:, 0] if wanted is None else statistics_NK

    def logits(self, hidden_NH: Tensor) -> Logits:
        """The logits of N hidden states, computed when a chunk is asked for."""
        return _HeadLogits(self, hidden_NH.detach(), self.linear.weight.detach().to(hidden_NH.dtype))


@dataclass(frozen=True)
class _HeadLogits:
    head: Head
    hidden_NH: Tensor
    weight_VH: Tensor

    @torch.no_grad()
    def chunk(self, place: slice) -> Tensor:
        head, bias_V = self.head, self.head.linear.bias
        return _logits(self.hidden_NH[place], self.weight_VH, bias_V, head.multiplier, head.softcap, head._scratch)


def _chunk(weight_VH: Tensor) -> int:
    """Tokens whose logits exist together."""
    return max(1, _CHUNK_ELEMENTS.get(weight_VH.device.type, 2**24) // weight_VH.shape[0])


def read_head(model: PreTrainedModel) -> Head | None:
    """The model's head, or None where it is more than a linear layer with a multiplier and a cap.

    What a model does to its logits is read from its config; `prefopt.engine.parity` holds the result against the
    model's own logits when a run starts.
    """
    linear = active(model.get_output_embeddings())  # type: ignore[no-untyped-call]
    if type(linear) is not nn.Linear:
        return None
    config = model.config.get_text_config()
    multiplier = getattr(config, "logit_scale", None) or 1.0
    multiplier /= getattr(config, "logits_scaling", None) or 1.0
    return Head(linear, float(multiplier), getattr(config, "final_logit_softcapping", None))


class _TokenStatistics(torch.autograd.Function):
    """Statistics of the next-token distribution chunk by chunk; the backward pass computes the logits again.

    The probabilities of a chunk are E / sum, with E the exponentials of logits less their largest. Those of the last
    chunk still lie in the scratch when the backward pass begins, unless another call wrote there or a cap needs the
    logits themselves; they are not computed again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        multiplier: float,
        softcap: float | None,
        chunk: int,
        scratch: _Scratch,
        wanted: Wanted | None,
    ) -> Tensor:
        reference = None if wanted is None else wanted.reference
        ctx.settings = (multiplier, softcap, chunk, scratch, reference)
        statistics, largest, sums = [], [], []
        for start in range(0, len(targets_N), chunk):
            place = slice(start, start + chunk)
            reference_CV = None if reference is None else reference.chunk(place).log_softmax(1)
            logits_CV = _logits(hidden_NH[place], weight_VH, bias_V, multiplier, softcap, scratch)
            target_C = logits_CV.gather(1, targets_N[place, None])[:, 0]
            largest_C = logits_CV.amax(1)
            ratio_CV = None if reference_CV is None else reference_CV - logits_CV
            sum_C = _exponentials(logits_CV, largest_C).sum(1)
            log_total_C = largest_C + sum_C.log()
            found = [target_C - log_total_C]
            if wanted is not None:
                found.append(logits_CV.square().sum(1).log() - 2 * sum_C.log())
            if reference_CV is not None and ratio_CV is not None:
                of_reference_C = reference_CV.gather(1, targets_N[place, None])[:, 0]
                found.append((reference_CV.exp_() * ratio_CV.add_(log_total_C[:, None])).sum(1).clamp(min=0))
                found.append(of_reference_C)
            statistics.append(torch.stack(found, 1))
            largest.append(largest_C)
            sums.append(sum_C)
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, targets_N, torch.cat(largest), torch.cat(sums))
        scratch.owner = ctx.mark = object()
        return torch.cat(statistics)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NH, weight_VH, bias_V, targets_N, largest_N, sums_N = ctx.saved_tensors
        multiplier, softcap, chunk, scratch, reference = ctx.settings
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        full = sums_N.dtype
        grad_hidden = torch.empty_like(hidden_NH) if wants_hidden else None
        grad_weight: Tensor | None = None
        grad_bias = torch.zeros_like(bias_V, dtype=full) if wants_bias else None
        kept = softcap is None and reference is None and scratch.owner is ctx.mark
        for start in reversed(range(0, len(targets_N), chunk)):
            place = slice(start, start + chunk)
            hidden_CH, targets_C, sum_C, grad_C = hidden_NH[place], targets_N[place], sums_N[place], grads[0][place, 0]
            reference_CV = None if reference is None else reference.chunk(place).softmax(1)
            capped_CV = None
            if kept:
                slope_CV, kept = scratch.take(len(targets_C), weight_VH, full), False
            else:
                logits_CV = _logits(hidden_CH, weight_VH, bias_V, multiplier, softcap, scratch)
                capped_CV = None if softcap is None else logits_CV / softcap
                slope_CV = _exponentials(logits_CV, largest_N[place])
            # d logp / d logits = onehot - softmax, d KL / d logits = softmax - reference's softmax;
            # the cap contributes 1 - (logits / cap)^2.
            if reference_CV is None:
                slope_CV.mul_((-grad_C / sum_C)[:, None])
            else:
                grad_kl_C = grads[0][place, 2]
                slope_CV.mul_(((grad_kl_C - grad_C) / sum_C)[:, None]).sub_(reference_CV.mul_(grad_kl_C[:, None]))
            slope_CV.scatter_add_(1, targets_C[:, None], grad_C[:, None])
            if capped_CV is not None:
                slope_CV.mul_(capped_CV.square_().neg_().add_(1))
            if grad_bias is not None:
                grad_bias.add_(slope_CV.sum(0), alpha=multiplier)
            if multiplier != 1:
                slope_CV.mul_(multiplier)
            narrow_CV = slope_CV.to(weight_VH.dtype)
            if grad_hidden is not None:
                torch.mm(narrow_CV, weight_VH, out=grad_hidden[place])
            if wants_weight:
                if grad_weight is None:
                    grad_weight = torch.mm(narrow_CV.t(), hidden_CH).to(full)
                elif full == weight_VH.dtype:
                    grad_weight.addmm_(narrow_CV.t(), hidden_CH)
                else:
                    grad_weight += narrow_CV.t() @ hidden_CH
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight_VH.dtype),
            None if grad_bias is None or bias_V is None else grad_bias.to(bias_V.dtype),
            *[None] * 6,
        )


def _logits(
    hidden_CH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    multiplier: float,
    softcap: float | None,
    scratch: _Scratch,
) -> Tensor:
    """[C, V] logits in at least float32, in the scratch.

    The bias is part of the linear layer, so the multiplier scales it too.
    """
    full = torch.promote_types(hidden_CH.dtype, torch.float32)
    logits_CV = scratch.take(len(hidden_CH), weight_VH, full)
    if full == hidden_CH.dtype:
        torch.mm(hidden_CH, weight_VH.t(), out=logits_CV)
    else:
        logits_CV.copy_(hidden_CH @ weight_VH.t())
    if bias_V is not None:
        logits_CV.add_(bias_V)
    if multiplier != 1:
        logits_CV.mul_(multiplier)
    if softcap is not None:
        logits_CV.div_(softcap).tanh_().mul_(softcap)
    return logits_CV


def _exponentials(logits_CV: Tensor, largest_C: Tensor) -> Tensor:
    """exp(logits - largest), in place."""
    return logits_CV.sub_(largest_C[:, None]).exp_()
