"""The language-model head on scored tokens only, in chunks, so that no (tokens, vocabulary) tensor outlives its chunk.

Shapes: N scored tokens, C tokens of a chunk, H hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

# 64 MiB of float32 logits at a time: large enough for full-speed products, small beside any model's activations.
_CHUNK_ELEMENTS = 2**24


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

    def token_logps(self, hidden_NH: Tensor, targets_N: Tensor) -> Tensor:
        """[N] log-probs of the targets, at least float32, nats."""
        chunk = max(1, _CHUNK_ELEMENTS // self.linear.weight.shape[0])
        logps: Tensor = _TokenLogps.apply(  # type: ignore[no-untyped-call]
            hidden_NH, self.linear.weight, self.linear.bias, targets_N, self.multiplier, self.softcap, chunk
        )
        return logps


def read_head(model: PreTrainedModel) -> Head | None:
    """The model's head, or None where it is more than a linear layer with a multiplier and a cap.

    What a model does to its logits is read from its config; `prefopt.engine.parity` holds the result against the
    model's own logits when a run starts.
    """
    linear = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if type(linear) is not nn.Linear:
        return None
    config = model.config.get_text_config()
    multiplier = getattr(config, "logit_scale", None) or 1.0
    multiplier /= getattr(config, "logits_scaling", None) or 1.0
    return Head(linear, float(multiplier), getattr(config, "final_logit_softcapping", None))


class _TokenLogps(torch.autograd.Function):
    """Log-probs chunk by chunk; the backward pass computes each chunk's logits again."""

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
    ) -> Tensor:
        ctx.settings = (multiplier, softcap, chunk)
        logps, normalisers = [], []
        for hidden_CH, targets_C in zip(torch.split(hidden_NH, chunk), torch.split(targets_N, chunk), strict=True):
            logits_CV, _ = _logits(hidden_CH, weight_VH, bias_V, multiplier, softcap)
            normaliser_C = logits_CV.logsumexp(dim=1)
            logps.append(logits_CV.gather(1, targets_C[:, None])[:, 0] - normaliser_C)
            normalisers.append(normaliser_C)
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, targets_N, torch.cat(normalisers))
        return torch.cat(logps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NH, weight_VH, bias_V, targets_N, normalisers_N = ctx.saved_tensors
        multiplier, softcap, chunk = ctx.settings
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        full = normalisers_N.dtype
        grad_hidden = torch.empty_like(hidden_NH) if wants_hidden else None
        grad_weight = torch.zeros_like(weight_VH, dtype=full) if wants_weight else None
        grad_bias = torch.zeros_like(bias_V, dtype=full) if wants_bias else None
        for start in range(0, len(targets_N), chunk):
            place = slice(start, start + chunk)
            hidden_CH = hidden_NH[place]
            grad_C = grads[0][place]
            logits_CV, capped_CV = _logits(hidden_CH, weight_VH, bias_V, multiplier, softcap)
            # d logp / d logits = onehot - softmax; the cap contributes 1 - (logits / cap)^2.
            slope_CV = logits_CV.sub_(normalisers_N[place, None]).exp_().neg_()
            slope_CV.scatter_add_(1, targets_N[place, None], torch.ones_like(grad_C)[:, None])
            slope_CV.mul_(grad_C[:, None])
            if capped_CV is not None:
                slope_CV.mul_(capped_CV.square_().neg_().add_(1))
            if grad_bias is not None:
                grad_bias.add_(slope_CV.sum(0), alpha=multiplier)
            slope_CV = slope_CV.mul_(multiplier).to(weight_VH.dtype)
            if grad_hidden is not None:
                torch.mm(slope_CV, weight_VH, out=grad_hidden[place])
            if grad_weight is not None:
                if full == weight_VH.dtype:
                    grad_weight.addmm_(slope_CV.t(), hidden_CH)
                else:
                    grad_weight += slope_CV.t() @ hidden_CH
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight_VH.dtype),
            None if grad_bias is None else grad_bias.to(weight_VH.dtype),
            None,
            None,
            None,
            None,
        )


def _logits(
    hidden_CH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, multiplier: float, softcap: float | None
) -> tuple[Tensor, Tensor | None]:
    """[C, V] logits in at least float32, and tanh(logits / softcap) where there is a cap.

    The bias is part of the linear layer, so the multiplier scales it too.
    """
    logits_CV = nn.functional.linear(hidden_CH, weight_VH, bias_V)
    if logits_CV.dtype in (torch.bfloat16, torch.float16):
        logits_CV = logits_CV.float()
    if multiplier != 1:
        logits_CV = logits_CV * multiplier
    if softcap is None:
        return logits_CV, None
    capped_CV = (logits_CV / softcap).tanh()
    return capped_CV * softcap, capped_CV
