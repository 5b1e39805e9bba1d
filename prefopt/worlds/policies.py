"""Autoregressive policies over a tree, many at once: every trial in every world is one slice of one program."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from prefopt.worlds.world import Worlds

# What trials draw from: rates that move a table's logits by a few nats within some hundred steps.
LEARNING_RATES = (0.01, 0.5)


class Policies:
    """T x S policies that start as their reference and learn by Adam, each at its own learning rate.

    A table has a logit for every action at every prefix of every prompt and can be any policy. With a rank the logits'
    distance from the reference is a product of P x rank and rank x (N A) factors, as in a low-rank adapter, so that the
    prompts share what is learnt.

    Args:
        worlds: [S] where they act.
        learning_rates: [T] one a trial, > 0. They fall linearly to 0 over `steps`.
        steps: optimiser steps to come.
    """

    def __init__(self, worlds: Worlds, learning_rates: Sequence[float], steps: int) -> None:
        self.tree = worlds.tree
        self.reference = worlds.reference.float()  # [S, P, N, A]
        num_prompts = self.reference.shape[1]
        shape = (len(learning_rates), len(worlds.seeds))
        self._start = torch.empty(0)  # where the first factor starts
        # Adam's step has the size of its learning rate whatever the gradient's scale, so parameters that are
        # multiplied by a rate and trained at rate 1 learn at that rate: one optimiser serves all trials.
        self._rates = torch.tensor(learning_rates, dtype=torch.float32)[:, None, None, None]
        cells = self.tree.num_prefixes * self.tree.num_actions
        if worlds.rank is None:
            self._parameters = [torch.zeros(*shape, num_prompts, cells, requires_grad=True)]
        else:
            generators = [torch.Generator().manual_seed(seed) for seed in worlds.seeds]
            size = (num_prompts, worlds.rank)
            self._start = torch.stack([torch.randn(size, generator=generator) for generator in generators])[None]
            self._start = self._start / worlds.rank**0.5
            self._parameters = [
                torch.zeros(*shape, *size, requires_grad=True),
                torch.zeros(*shape, worlds.rank, cells, requires_grad=True),
            ]
        # No epsilon that a small rate would be lost against.
        self._optimizer = torch.optim.Adam(self._parameters, lr=1.0, eps=1e-12, fused=True)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, lambda step: 1 - step / steps)

    def next_token_logps(self) -> Tensor:
        """[T, S, P, N, A] log-probs of every action at every prefix, nats, float32, with their gradient."""
        return self.tree.next_token_logps(self.reference + self.distances())

    def distances(self) -> Tensor:
        """[T, S, P, N, A] the logits less the reference's, nats, float32, with their gradient."""
        *factor, table = self._parameters
        distance = self._rates * table
        if factor:
            distance = (self._start + self._rates * factor[0]) @ distance
        return distance.reshape(*distance.shape[:-1], -1, self.tree.num_actions)

    def logps(self) -> Tensor:
        """[T, S, P, C] float64 log-probs of every completion, nats, without gradient."""
        with torch.no_grad():
            return self.tree.logps(self.next_token_logps().double())

    def step(self, objective: Tensor) -> None:
        """One optimiser step down the gradient of each policy's objective [T, S]; they do not touch each other."""
        self._optimizer.zero_grad()
        torch.autograd.backward(objective.sum())
        self._optimizer.step()
        self._schedule.step()

    def train(self, objective: Callable[[int, Tensor], Tensor], checkpoints: Sequence[int]) -> Tensor:
        """Minimise `objective(step, next_token_logps)` [T, S], keeping the policies after the given steps.

        Args:
            objective: from the step, counted from 0, and [T, S, P, N, A].
            checkpoints: [K] ascending.

        Returns:
            [T, S, K, P, C] float64 log-probs of every completion, nats.
        """
        kept = []
        for step in range(checkpoints[-1]):
            self.step(objective(step, self.next_token_logps()))
            if step + 1 in checkpoints:
                kept.append(self.logps())
        return torch.stack(kept, dim=2)


def token_logps(tree_positions: Tensor, next_token_logps: Tensor, prompts: Tensor, completions: Tensor) -> Tensor:
    """[T, S, B, depth] log-probs of the tokens of chosen completions, nats; 0 where there is none.

    Args:
        tree_positions: [C, depth] `Tree.positions`.
        next_token_logps: [T, S, P, N, A] or any other table of that shape, such as a value for every action.
        prompts: [S, B].
        completions: [S, B].
    """
    flat = next_token_logps.flatten(-2)
    cells = flat.shape[-1] + 1  # the last is where a token that is none stands
    padded = torch.cat([flat, flat.new_zeros(*flat.shape[:-1], 1)], dim=-1).flatten(-2)
    index = (prompts[..., None] * cells + tree_positions[completions]).flatten(1)
    num_trials = len(flat)
    found = padded.gather(-1, index.expand(num_trials, *index.shape))
    return found.reshape(*found.shape[:-1], *completions.shape[1:], -1)
