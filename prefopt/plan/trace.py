"""One micro-batch through a model that holds no weights: what it keeps, what it needs at most, what it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.autograd.graph import _engine_run_backward

from prefopt.engine.head import Wanted
from prefopt.engine.layout import Layout
from prefopt.engine.logps import Scorer
from prefopt.plan.kernels import Kernels, kernels_of
from prefopt.plan.ledger import Ledger


@dataclass(frozen=True)
class Trace:
    """What a micro-batch takes, weights left out; bytes and floating-point operations by part.

    The parts: `layers` (activations), `attention` (what its kernels keep), `head` (hidden states, scratch and
    statistics of scored tokens), `backward` (what the backward pass holds for a moment), `gradients`.

    Attributes:
        saved: what the forward pass leaves for the backward pass.
        peak: at the fullest moment of both.
        kept: what stays when both are over, gradients left out.
        forward, backward: arithmetic of the two passes.
        events: every storage in the order in which it comes and goes: (number, bytes), (number, 0).
    """

    saved: Mapping[str, int]
    peak: Mapping[str, int]
    kept: int
    forward: Mapping[str, int]
    backward: Mapping[str, int]
    events: Sequence[tuple[int, int]]

    @property
    def peak_bytes(self) -> int:
        """All parts together."""
        return sum(self.peak.values())


def trace(
    scorer: Scorer,
    layout: Layout,
    *,
    device: str,
    autocast: torch.dtype | None = None,
    wanted: Callable[[], Wanted] | None = None,
    backward: bool = True,
    accumulates: bool = False,
) -> Trace:
    """Run one micro-batch on the meta device.

    Args:
        scorer: the model, on the meta device.
        layout: the micro-batch, there too.
        device: "cpu" or "cuda": whose kernels to count.
        autocast: precision of the products, None: that of the weights.
        wanted: gives what else than log-probs the loss reads; its arithmetic is not counted.
        backward: False: without gradient, as the reference is scored.
        accumulates: whether gradients of an earlier micro-batch are there already; they are not counted.
    """
    parameters = list(scorer.parameters())
    trainable = [each for each in parameters if each.requires_grad]
    for each in trainable:
        each.grad = torch.empty_like(each) if accumulates else None
    known = [*parameters, *scorer.buffers(), *(each.grad for each in trainable if each.grad is not None)]
    known += [layout.input_ids_RT, layout.position_ids_RT, layout.places_N, layout.targets_N]
    ledger = Ledger(known, "layers")

    def enter_head(*_: object) -> None:
        ledger.part = "head"

    hooks = [scorer.model.base_model.register_forward_hook(enter_head)]
    hooks += [
        each.register_post_accumulate_grad_hook(lambda own: ledger.rename(own.grad, "gradients"))  # type: ignore[no-untyped-call]
        for each in trainable
    ]
    try:
        with kernels_of(device), torch.set_grad_enabled(backward), ledger, Kernels(ledger, device, autocast):
            ledger.part = "head"
            other = None if wanted is None else wanted()
            ledger.flops.clear()
            ledger.part = "layers"
            values = scorer(layout, other)
            saved, forward = dict(ledger.live), dict(ledger.flops)
            ledger.flops.clear()
            if backward:
                ledger.part = "backward"
                # What `torch.autograd.backward` calls: that itself would close `Kernels` before layers are recomputed.
                ones = torch.ones_like(values)
                _engine_run_backward((values,), (ones,), False, False, (), allow_unreachable=True, accumulate_grad=True)
                del ones
            del values, other
        events = list(ledger.events)  # letting go of the gradients below is no part of it
    finally:
        for hook in hooks:
            hook.remove()
        for each in trainable:
            each.grad = None
    left = {part: size for part, size in ledger.live.items() if part != "gradients"}
    return Trace(saved, ledger.peak, sum(left.values()), forward, dict(ledger.flops), events)
