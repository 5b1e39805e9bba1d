"""Checks of what a loss returns: terms, metrics, rewards."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from prefopt.batch import Completions
from prefopt.loss import LabelLoss, PairLoss
from prefopt.testing.case import DIFFERENTIABLE, Case
from prefopt.testing.check import Broken, on_cases
from prefopt.testing.compare import must_agree


@on_cases(num_examples=8)
def detached_metrics(case: Case) -> None:
    """Metrics and the new state carry no gradient."""
    keys = DIFFERENTIABLE[case.kind]
    leaves = {keys[name]: tensor.clone().requires_grad_() for name, tensor in case.inputs.items()}
    output = case.output(**leaves)
    for what, found in (("metric", output.metrics), ("state", output.state)):
        for name, tensor in found.items():
            if tensor.requires_grad:
                raise Broken(f"{what} {name!r} carries a gradient; detach it, or every step keeps its whole graph")


@on_cases()
def terms(case: Case) -> None:
    """Terms add up to the losses; their normalisers count rows or tokens and do not depend on log-probs."""
    keys = DIFFERENTIABLE[case.kind]
    leaves = {keys[name]: tensor.clone().requires_grad_() for name, tensor in case.inputs.items()}
    output = case.output(**leaves)
    found = output.all_terms()
    total = torch.stack([values for values, _ in found.values()]).sum(0)
    must_agree({"losses": output.losses}, {"losses": total}, "{found}, but the terms add up to {expected}")
    elsewhere = case.output(**{keys[name]: tensor * 1.25 - 1 / 8 for name, tensor in case.inputs.items()}).all_terms()
    for name, (_, normaliser) in found.items():
        if not normaliser.isfinite().all() or (normaliser < 0).any():
            raise Broken(f"the normaliser of {name} is {normaliser.tolist()}; it counts, so it is at least 0")
        if not (case.weights * normaliser).sum() > 0:
            raise Broken(f"the normaliser of {name} is 0 in all rows, so the term would be 0 / 0")
        if normaliser.requires_grad:
            raise Broken(f"the normaliser of {name} carries a gradient")
        if not case.loss.needs.coupled and not normaliser.equal(elsewhere[name][1]):
            raise Broken(f"the normaliser of {name} depends on log-probs, so a batch cannot be cut into micro-batches")


@on_cases()
def reward(case: Case) -> None:
    """The reward of a completion is one finite number that depends on nothing else, and metrics report it."""
    batch, loss = case.batch(), case.loss
    sides = {side: one for side, one in batch.sides().items() if side != "mismatched"}
    rewards = {side: loss.reward(one) for side, one in sides.items()}
    for side, found in rewards.items():
        one = sides[side]
        if found.shape != one.policy.shape:
            raise Broken(f"the reward of {side} has shape {list(found.shape)}, not {list(one.policy.shape)}")
        there = one.lengths > 0
        if not found[there].isfinite().all():
            raise Broken(f"the reward of {side} is {found.tolist()}")
        for row in range(len(case)):
            alone = loss.reward(case.rows([row]).batch().sides()[side])
            must_agree(
                {f"reward of {side}": alone},
                {f"reward of {side}": found[[row]]},
                "{found} alone, {expected} in company",
            )
        if found.dim() == 2:
            flat = loss.reward(_flat(one))
            must_agree(
                {"reward": flat[there.flatten()]},
                {"reward": found[there]},
                "{found} in a flat list, {expected} in a ranking",
            )
    metrics = case.output().metrics
    expected = {"chosen_reward": "chosen", "rejected_reward": "rejected", "reward": "completions"}
    for name, side in expected.items():
        if name in metrics and side in rewards:
            must_agree({name: metrics[name]}, {name: rewards[side]}, "the metric is {found}, the reward {expected}")
    wanted = {PairLoss: ("chosen_reward", "rejected_reward"), LabelLoss: ("reward",)}
    for base, names in wanted.items():
        for name in names:
            if isinstance(loss, base) and name not in metrics:
                raise Broken(f"no metric {name!r}; `rewards` must give what the base class gives")


def _flat(completions: Completions) -> Completions:
    """The completions of rankings in one list."""

    def flat(value: Any) -> Any:
        return value.flatten() if isinstance(value, Tensor) else value

    return replace(completions, **{one.name: flat(getattr(completions, one.name)) for one in fields(completions)})
