"""The gradient of a loss over a whole optimiser batch, the same however the batch is cut into micro-batches.

A loss is reduced once, over the whole batch. Where every loss row lies inside one micro-batch and rows do not depend
on each other, one pass is enough: normalisers are known before any forward pass. Otherwise a first pass without
gradient collects the log-probs of the whole batch, the loss and its gradient in log-prob space are computed once, and
a second pass back-propagates that gradient micro-batch by micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prefopt.batch import PreferenceBatch
from prefopt.data.row import Row
from prefopt.data.trees import prune
from prefopt.engine.assembly import Assembly
from prefopt.engine.layout import lay_out
from prefopt.engine.logps import Scorer, TokenLogps, by_slot
from prefopt.engine.microbatches import cut
from prefopt.errors import NonFiniteLossError
from prefopt.loss import LossOutput
from prefopt.weighted import Objective

Backward = Callable[[Tensor], None]


@dataclass(frozen=True)
class StepResult:
    """What one optimiser batch gave, besides the gradients left in the model.

    Attributes:
        loss: the reduced loss.
        output: the loss's output over the whole batch, detached.
        assembly: which slot is whose.
        policy, reference: log-probs of every slot, detached.
        num_tokens: tokens the policy computed in its passes with gradient, padding left out.
    """

    loss: float
    output: LossOutput
    assembly: Assembly
    policy: TokenLogps
    reference: TokenLogps | None
    num_tokens: int


def accumulate(
    policy: Scorer,
    reference: Scorer | None,
    loss: Objective,
    rows: Sequence[Row],
    *,
    tokens_per_microbatch: int,
    backward: Backward = torch.Tensor.backward,
    state: Mapping[str, Tensor] | None = None,
) -> StepResult:
    """Add the gradient of the loss over `rows` to the policy's parameters.

    Args:
        policy: the model in training; its parameters receive the gradient.
        reference: the frozen model, or None for losses that need none.
        loss: one loss or a weighted sum.
        rows: one optimiser batch.
        tokens_per_microbatch: memory budget; it changes the result only by rounding.
        backward: how a scalar is back-propagated (the accelerator's, in the trainer).
        state: the loss's state before this batch.

    Raises:
        NonFiniteLossError: a loss value is NaN or infinite; the message names the rows.
    """
    assembly = Assembly.of(rows, loss)
    trees = assembly.trees()
    references = None
    if reference is not None and loss.needs.reference:
        references = reference.score(trees, tokens_per_microbatch=tokens_per_microbatch)
    microbatches = cut(trees, tokens_per_microbatch, shared_prompts=policy.shared_prompts)
    homes = [assembly.within(slot for tree in part for slot, _ in tree.branches) for part in microbatches]
    whole = sum(map(len, homes)) == len(assembly.owners)
    one_pass = len(microbatches) == 1 or (whole and not loss.needs.coupled)

    if one_pass:
        normalisers = _normalisers(loss, assembly)
        pieces: dict[int, Tensor] = {}
        num_tokens = 0
        for part, home in zip(microbatches, homes, strict=True):
            layout = lay_out(part, policy.device)
            own = by_slot(layout, policy(layout))
            if home:  # a ranking of equals has completions, but no loss row
                batch = assembly.batch(own, references, loss, state, home)
                backward(_reduce(_finite(loss(batch), assembly, home), batch, normalisers))
            pieces |= {slot: values.detach() for slot, values in own.items()}
            num_tokens += layout.num_tokens
        policies = TokenLogps.gather(pieces)
    else:
        policies = policy.score(trees, tokens_per_microbatch=tokens_per_microbatch)
        leaf = TokenLogps(policies.values.requires_grad_(), policies.lengths)
        batch = assembly.batch(leaf, references, loss, state)
        output = _finite(loss(batch), assembly)
        (slope,) = torch.autograd.grad(_reduce(output, batch, _totals(output, batch)), leaf.values)
        policies.values.requires_grad_(False)
        slopes = TokenLogps(slope, policies.lengths).split()
        live = {slot for slot, piece in enumerate(slopes) if piece.any()}
        num_tokens = 0
        for part in microbatches:
            kept = [pruned for tree in part if (pruned := prune(tree, live))]
            if kept:
                layout = lay_out(kept, policy.device)
                along = torch.cat([slopes[slot] for slot in layout.slots])
                backward(policy(layout) @ along)
                num_tokens += layout.num_tokens

    with torch.no_grad():
        batch = assembly.batch(policies, references, loss, state)
        output = loss(batch)
        total = _reduce(output, batch, _totals(output, batch))
    return StepResult(float(total), output, assembly, policies, references, num_tokens)


def evaluate_loss(
    loss: Objective,
    assembly: Assembly,
    policy: TokenLogps,
    reference: TokenLogps | None,
    state: Mapping[str, Tensor] | None = None,
) -> float:
    """The reduced loss over rows whose log-probs are known; the loss's state is read, never changed.

    Raises:
        NonFiniteLossError: a loss value is NaN or infinite; the message names the rows.
    """
    batch = assembly.batch(policy, reference, loss, state)
    output = _finite(loss(batch), assembly)
    return float(_reduce(output, batch, _totals(output, batch)))


def _reduce(output: LossOutput, batch: PreferenceBatch, totals: Mapping[str, Tensor]) -> Tensor:
    """Per term, weighted sum of values over the normaliser of the whole optimiser batch."""
    parts = [(batch.weights * values).sum() / totals[name] for name, (values, _) in output.all_terms().items()]
    return torch.stack(parts).sum()


def _totals(output: LossOutput, batch: PreferenceBatch) -> dict[str, Tensor]:
    return {name: (batch.weights * normaliser).sum() for name, (_, normaliser) in output.all_terms().items()}


@torch.no_grad()
def _normalisers(loss: Objective, assembly: Assembly) -> dict[str, Tensor]:
    """The normaliser of each term over the whole batch, before any log-prob is known.

    Normalisers depend on lengths and labels alone, so any log-probs read them: -1 per token stands in.
    """
    lengths = tuple(completion.num_scored for _, completion in assembly.slots)
    stand_in = TokenLogps(-torch.ones(sum(lengths), dtype=torch.float64), lengths)
    batch = assembly.batch(stand_in, stand_in if loss.needs.reference else None, loss)
    return _totals(loss(batch), batch)


def _finite(output: LossOutput, assembly: Assembly, loss_rows: Sequence[int] | None = None) -> LossOutput:
    finite = output.losses.isfinite()
    if not finite.all():
        rows = range(len(assembly.owners)) if loss_rows is None else loss_rows
        bad = [row for row, good in zip(rows, finite.tolist(), strict=True) if not good]
        names = assembly.names(assembly.owners[row] for row in bad)
        raise NonFiniteLossError(f"the loss is {output.losses[~finite][0].item()} on {names}")
    return output
