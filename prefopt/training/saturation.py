"""Rows that no longer teach: their gradient in log-prob space has all but vanished."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from prefopt.engine.assembly import Assembly
from prefopt.engine.logps import TokenLogps
from prefopt.engine.transfer import placed
from prefopt.weighted import Objective

SATURATED = 0.01
"""A saturated row has less than this share of its gradient left."""


def saturated_rows(
    loss: Objective,
    assembly: Assembly,
    policy: TokenLogps,
    reference: TokenLogps | None,
    state: Mapping[str, Tensor] | None = None,
) -> Tensor | None:
    """Which data rows have less than 1 % left of the gradient that they began with.

    The gradient of a row is d(sum of losses) / d(log-probs of its scored tokens), all its completions together, and its
    size the Euclidean norm. It is held against that of the same row with the policy at the reference. A loss without a
    reference says nothing of where the policy began; there the row is held against itself with its completions
    exchanged: chosen for rejected, label for the other label, a ranking upside down.

    Args:
        loss: one loss or a weighted sum.
        assembly: which slot is whose.
        policy, reference: log-probs of every slot.
        state: the loss's state before the batch; absent: its initial state.

    Returns:
        [R] bool, one for each data row; None for demonstrations, and for a loss without a reference that reads scores
        of pairs, where exchanged rows would be no valid ones.
    """
    if reference is not None:
        began = gradient_sizes(loss, assembly, _at(policy, reference), reference, state)
    else:
        exchanged = _exchanged(assembly, loss)
        if exchanged is None:
            return None
        began = gradient_sizes(loss, exchanged, policy, None, state)
    return gradient_sizes(loss, assembly, policy, reference, state) < SATURATED * began


@torch.enable_grad()
def gradient_sizes(
    loss: Objective,
    assembly: Assembly,
    policy: TokenLogps,
    reference: TokenLogps | None,
    state: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """[R] the size of each data row's gradient: see `saturated_rows`."""
    leaf = TokenLogps(policy.values.detach().clone().requires_grad_(), policy.lengths)
    losses = loss(assembly.batch(leaf, reference, loss, state)).losses
    (slope,) = torch.autograd.grad(losses.sum(), leaf.values)
    squares = slope.square() if slope.dim() == 1 else slope.square().sum(1)
    bounds = [*assembly.starts, len(assembly.slots)]
    lengths = placed(policy.lengths, squares.device)
    slots = torch.segment_reduce(squares, "sum", lengths=lengths, unsafe=True)
    counts = placed(bounds, squares.device).diff()
    return torch.segment_reduce(slots, "sum", lengths=counts, unsafe=True).sqrt()


def _at(policy: TokenLogps, reference: TokenLogps) -> TokenLogps:
    """The policy's values as they would be at the reference; how sharp its distributions are is left as it is."""
    values = policy.values.detach().clone()
    if values.dim() == 1:
        return TokenLogps(reference.tokens.to(values), policy.lengths)
    values[:, 0] = reference.tokens
    if policy.reference_kl is not None:
        values[:, 2] = 0
    return TokenLogps(values, policy.lengths)


def _exchanged(assembly: Assembly, loss: Objective) -> Assembly | None:
    if assembly.kind == "pairs" and not loss.needs.scores:
        return replace(assembly, members=tuple((rejected, chosen) for chosen, rejected in assembly.members))
    if assembly.kind == "labels":
        return replace(assembly, desirable=tuple(not label for label in assembly.desirable))
    if assembly.kind == "rankings":
        turned = tuple(
            (prompt, replace(own, score=None if own.score is None else -own.score)) for prompt, own in assembly.slots
        )
        return replace(assembly, slots=turned)
    return None
