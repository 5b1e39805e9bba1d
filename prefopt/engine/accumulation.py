"""The gradient of a loss over a whole optimiser batch, the same however the batch is cut into micro-batches.

A loss is reduced once, over the whole batch. Where every loss row lies inside one micro-batch and rows do not depend
on each other, one pass is enough: normalisers are known before any forward pass. Otherwise a first pass without
gradient collects the log-probs of the whole batch, the loss and its gradient in log-prob space are computed once, and
a second pass back-propagates that gradient micro-batch by micro-batch. What a loss reads of next-token distributions
is collected and back-propagated beside the log-probs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prefopt.batch import PreferenceBatch
from prefopt.data.row import Row
from prefopt.data.trees import Tree, prune
from prefopt.engine.assembly import Assembly
from prefopt.engine.head import Wanted
from prefopt.engine.layout import Layout
from prefopt.engine.logps import LogpSource, Scorer, TokenLogps, by_slot, collect
from prefopt.engine.ranks import ALONE, Ranks, exchanging, unwrapped
from prefopt.errors import ConfigError, NonFiniteLossError, PluginError
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
        num_tokens: tokens the policy computed in its passes with gradient, on all ranks, padding left out.
    """

    loss: float
    output: LossOutput
    assembly: Assembly
    policy: TokenLogps
    reference: TokenLogps | None
    num_tokens: int


def accumulate(
    policy: nn.Module,
    reference: LogpSource | None,
    loss: Objective,
    rows: Sequence[Row],
    *,
    tokens_per_microbatch: int,
    backward: Backward = torch.Tensor.backward,
    state: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    step: int = 0,
    ranks: Ranks = ALONE,
) -> StepResult:
    """Add the gradient of the loss over `rows` to the policy's parameters.

    Args:
        policy: the `Scorer` in training, or DDP around it; its parameters receive the gradient.
        reference: the frozen model or its values, or None for losses that need none.
        loss: one loss or a weighted sum.
        rows: one optimiser batch.
        tokens_per_microbatch: memory budget; it changes the result only by rounding.
        backward: how a scalar is back-propagated (the accelerator's, in the trainer).
        state: the loss's state before this batch.
        seed, step: key the random draws of losses that make any.
        ranks: the processes that share the batch; each is given all rows and computes its part. Afterwards all hold the
            gradient of the whole batch, or under FSDP2 their shards of it.

    Raises:
        ConfigError: the loss reads the reference's next-token distributions, and the reference is no model.
        NonFiniteLossError: a loss value is NaN or infinite; the message names the rows, and the gradients are void.
    """
    scorer = unwrapped(policy)
    assert isinstance(scorer, Scorer)
    assembly = Assembly.of(rows, loss, seed=seed, step=step)
    trees = assembly.trees()
    budget = tokens_per_microbatch
    references = None
    # Where the loss reads the reference's distributions, its log-probs come with them.
    if reference is not None and loss.needs.reference and loss.needs.distribution != "both":
        references = reference.score(trees, tokens_per_microbatch=budget, ranks=ranks)
    microbatches = scorer.cut(trees, budget, ranks)
    homes = [assembly.within(slot for tree in part for slot, _ in tree.branches) for part in microbatches]
    whole = sum(map(len, homes)) == len(assembly.owners)
    # A coupled loss sees the whole batch before any gradient flows, so its normalisers may depend on what it saw.
    normalisers = None if loss.needs.coupled else _normalisers(loss, assembly)
    wants = what_is_wanted(loss, reference)
    passes = _Passes(policy, scorer, backward, ranks, wants)

    if len(microbatches) == 1 or (whole and not loss.needs.coupled):

        def part_of_loss(number: int, layout: Layout, values: Tensor) -> Tensor:
            if not homes[number]:  # a ranking of equals has completions, but no loss row
                return values.sum() * 0
            batch = assembly.batch(by_slot(layout, values), references, loss, state, homes[number])
            return _reduce(loss(batch), batch, normalisers)

        policies = collect(passes.run(microbatches, part_of_loss), microbatches, ranks)
    else:
        policies = scorer.score(trees, tokens_per_microbatch=budget, ranks=ranks, wants=wants)
        leaf = TokenLogps(policies.values.detach().requires_grad_(), policies.lengths)
        batch = assembly.batch(leaf, references, loss, state)
        output = _finite(loss(batch), assembly)
        (slope,) = torch.autograd.grad(_reduce(output, batch, normalisers), leaf.values)
        slopes = TokenLogps(slope, policies.lengths).split()
        live = _moved(slope, policies)
        moving = [pruned for tree in trees if (pruned := prune(tree, live))]

        def along_slopes(_: int, layout: Layout, values: Tensor) -> Tensor:
            return (values * torch.cat([slopes[slot] for slot in layout.slots])).sum()

        if moving:
            passes.run(scorer.cut(moving, budget, ranks), along_slopes)
        else:
            _without_slope(policy)

    with torch.no_grad():
        batch = assembly.batch(policies, references, loss, state)
        output = _finite(loss(batch), assembly)
        if normalisers is not None:
            _check_normalisers(loss, normalisers, _totals(output, batch))
        total = _reduce(output, batch)
    return StepResult(float(total), output, assembly, policies, references or policies.reference, passes.num_tokens)


def what_is_wanted(loss: Objective, reference: LogpSource | None) -> Callable[[Sequence[Tree]], Wanted | None]:
    """For each micro-batch, what the loss reads of next-token distributions beside the log-probs.

    Raises:
        ConfigError: the loss reads the reference's distributions, and the reference is no model.
    """
    distribution = loss.needs.distribution
    if distribution != "both":
        return lambda _: Wanted() if distribution else None
    if not isinstance(reference, Scorer):
        raise ConfigError(
            f"loss {loss.name} needs the reference's next-token distributions, which no stored log-probs hold; "
            "use a live reference"
        )
    return lambda trees: Wanted(reference.logits(trees))


@dataclass
class _Passes:
    """Forward and backward over this rank's micro-batches; gradients are exchanged in the last one.

    Attributes:
        policy: the model in training, as its wrapper calls it.
        scorer: the model itself.
        backward: how a scalar is back-propagated.
        ranks: who computes which micro-batch.
        wants: what else than log-probs is read of a micro-batch.
        num_tokens: tokens computed so far by all ranks, padding left out.
    """

    policy: nn.Module
    scorer: Scorer
    backward: Backward
    ranks: Ranks
    wants: Callable[[Sequence[Tree]], Wanted | None]
    num_tokens: int = 0

    def run(self, microbatches: Sequence[Sequence[Tree]], objective: Callable[[int, Layout, Tensor], Tensor]) -> Tensor:
        """Back-propagate each micro-batch's part of the loss.

        Args:
            microbatches: those of all ranks.
            objective: (number of the micro-batch, its layout, its log-probs) -> a scalar; their sum is the loss.

        Returns:
            [n] this rank's log-probs, detached, in the order of its micro-batches.
        """
        own = range(self.ranks.index, len(microbatches), self.ranks.count)
        found = []
        for number in own:
            part = microbatches[number]
            with exchanging(self.policy, number == own[-1]):
                # A rank with nothing left takes part in the exchange all the same.
                trees = part or microbatches[0][:1]
                layout = self.scorer.lay_out(trees)
                values = self.policy(layout, self.wants(trees))
                # The wrappers of several ranks average what should be summed.
                self.backward(objective(number, layout, values) * self.ranks.count if part else values.sum() * 0)
            found.append(values.detach() if part else values.detach()[:0])
        self.num_tokens += sum(tree.num_tokens for part in microbatches for tree in part)
        return torch.cat(found)


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
    return float(_reduce(output, batch))


def _reduce(output: LossOutput, batch: PreferenceBatch, totals: Mapping[str, Tensor] | None = None) -> Tensor:
    """Per term, weighted sum of values over the normaliser of the whole optimiser batch: this one's, unless given."""
    totals = _totals(output, batch) if totals is None else totals
    parts = [(batch.weights * values).sum() / totals[name] for name, (values, _) in output.all_terms().items()]
    return torch.stack(parts).sum()


def _totals(output: LossOutput, batch: PreferenceBatch) -> dict[str, Tensor]:
    return {name: (batch.weights * normaliser).sum().detach() for name, (_, normaliser) in output.all_terms().items()}


@torch.no_grad()
def _normalisers(loss: Objective, assembly: Assembly) -> dict[str, Tensor]:
    """The normaliser of each term over the whole batch, before any log-prob is known.

    Normalisers depend on lengths and labels alone, so any log-probs read them: those of a uniform choice among three.
    """
    batch = assembly.stand_in(loss)
    return _totals(loss(batch), batch)


def _moved(slope: Tensor, logps: TokenLogps) -> set[int]:
    """The slots whose log-probs the loss depends on."""
    sizes = slope.abs() if slope.dim() == 1 else slope.abs().sum(1)
    return set(TokenLogps(sizes, logps.lengths).sums.nonzero()[:, 0].tolist())


def _without_slope(policy: nn.Module) -> None:
    """The gradient is zero, not absent: an optimiser's averages go on as they do for any other loss."""
    for parameter in policy.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _check_normalisers(loss: Objective, known: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Hold the normalisers read off stand-ins against those of the true log-probs: lengths and labels alone decide."""
    for name, total in found.items():
        if not torch.allclose(known[name].to(total), total, rtol=1e-5):
            raise PluginError(
                f"loss {loss.name}: the normaliser of term {name!r} depends on log-probs ({float(known[name]):.6g} for "
                f"stand-ins, {float(total):.6g} for this batch); it may depend on lengths and labels only"
            )


def _finite(output: LossOutput, assembly: Assembly) -> LossOutput:
    finite = output.losses.isfinite()
    if not finite.all():
        bad = [row for row, good in enumerate(finite.tolist()) if not good]
        names = assembly.names(assembly.owners[row] for row in bad)
        raise NonFiniteLossError(f"the loss is {output.losses[~finite][0].item()} on {names}")
    return output
