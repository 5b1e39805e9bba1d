"""What the policies of a method are worth in worlds where everything can be enumerated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefopt.method import Budget, Method, Trial
from prefopt.task import Task
from prefopt.worlds import Rows, Worlds, exact

NUM_KLS = 31  # where the optimum is known: a grid from 0 to the task's largest KL


@dataclass(frozen=True)
class Measurement:
    """What T trials on S seeds came to at K checkpoints. A policy that diverged has NaN throughout.

    Attributes:
        metrics: name -> [T, S, K]: `reward` (mean, the task's units), `kl` (policy || reference, nats) and what
            else the task knows: `forward_kl` (reference || policy), `win_rate` against the reference,
            `chosen_log_ratio` and `rejected_log_ratio` (mean over the rows' better and worse completions, nats),
            `exploitability`.
        reference_reward: [S] the reference's mean reward.
        max_kl: up to where frontiers are compared, nats.
        optimum_kl: [G] and
        optimum_reward: [S, G] the most that any policy of that KL gets; None where nobody knows.
    """

    metrics: Mapping[str, np.ndarray]
    reference_reward: np.ndarray
    max_kl: float
    optimum_kl: np.ndarray | None = None
    optimum_reward: np.ndarray | None = None


def measure(
    task: Task, knobs: Mapping[str, Any], method: Method, trials: Sequence[Trial], seeds: Sequence[int], budget: Budget
) -> Measurement:
    """Build the worlds of all seeds, run the method's trials in them, and enumerate what came out.

    Raises:
        PrefoptError: the method cannot do this task.
    """
    worlds = Worlds.of([task.build(seed, **knobs) for seed in seeds], seeds)
    logps = method.policies(trials, worlds, budget)  # [T, S, K, P, C]
    metrics = {name: value.mean(-1) for name, value in _per_prompt(worlds, logps).items()}
    metrics |= _displacement(worlds, logps)
    kls = torch.linspace(0, worlds.max_kl, NUM_KLS, dtype=torch.float64)
    return Measurement(
        {name: value.numpy() for name, value in metrics.items()},
        exact.expectation(worlds.logps, worlds.reward).mean(-1).numpy(),
        worlds.max_kl,
        kls.numpy(),
        exact.frontier(worlds.logps, worlds.reward, kls).numpy(),
    )


def _per_prompt(worlds: Worlds, logps: Tensor) -> dict[str, Tensor]:
    """Metrics [T, S, K, P]."""
    reference, reward = worlds.logps[:, None], worlds.reward[:, None]  # [S, 1, P, C]
    preferences = torch.stack([world.preferences() for world in worlds.worlds])  # [S, P, C, C]
    # How often each completion wins against the reference: the win rate is its mean.
    wins = torch.einsum("spij,spj->spi", preferences, worlds.logps.exp())[:, None]
    found = {
        "reward": exact.expectation(logps, reward),
        "kl": exact.kl(logps, reference),
        "forward_kl": exact.kl(reference, logps),
        "win_rate": exact.expectation(logps, wins),
    }
    if worlds.worlds[0].preference is not None:
        found["exploitability"] = exact.exploitability(logps, preferences[:, None])
    return found


def _displacement(worlds: Worlds, logps: Tensor) -> dict[str, Tensor]:
    """Mean log-ratios [T, S, K] of the better and the worse completions of the rows."""
    log_ratios = logps - worlds.logps[:, None]
    found: dict[str, list[Tensor]] = {"chosen_log_ratio": [], "rejected_log_ratio": []}
    for seed, rows in enumerate(worlds.rows):
        for name, side in zip(found, _better_and_worse(rows), strict=True):
            own = log_ratios[:, seed, :, side.prompts, side.completions[:, 0]]  # [T, K, B]
            found[name].append(own.mean(-1))
    return {name: torch.stack(values, dim=1) for name, values in found.items()}


def _better_and_worse(rows: Rows) -> tuple[Rows, Rows]:
    if rows.kind == "labels":
        assert rows.desirable is not None
        return rows.take(rows.desirable.nonzero()[:, 0]), rows.take((~rows.desirable).nonzero()[:, 0])
    pairs = rows.as_pairs()
    return (
        Rows("demonstrations", pairs.prompts, pairs.completions[:, :1]),
        Rows("demonstrations", pairs.prompts, pairs.completions[:, 1:]),
    )
