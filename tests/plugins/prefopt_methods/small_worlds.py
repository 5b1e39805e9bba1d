"""Worlds of few completions, and what every method must keep."""

import itertools

import torch

from prefopt import Budget
from prefopt.worlds import World, Worlds

BUDGET = Budget(steps=20, batch_size=16, checkpoints=(10, 20))


def worlds(seeds=(0, 1), **knobs):
    given = {"num_prompts": 3, "num_tokens": 2, "depth": 3, "num_rows": 200} | knobs
    return Worlds.of([World.draw(seed, **given) for seed in seeds], list(seeds))


def rewarded(worlds, reward):
    """The same worlds with another true reward [S, P, C]."""
    return type(worlds)(**{**vars(worlds), "reward": reward})


def best_of_tuples(logps, reward, n):
    """[C] by brute force: every n-tuple of draws, the first of its best wins."""
    probability = logps.exp().tolist()
    won = torch.zeros_like(logps)
    for drawn in itertools.product(range(len(probability)), repeat=n):
        best = max(drawn, key=lambda completion: reward[completion])  # max keeps the first of equals
        chance = 1.0
        for completion in drawn:
            chance *= probability[completion]
        won[best] += chance
    return won


def assert_log_probs_of_policies(found, num_trials, worlds, num_checkpoints=1):
    size = (num_trials, len(worlds.seeds), num_checkpoints, *worlds.logps.shape[1:])
    assert found.shape == size
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(size[:-1], dtype=torch.float64), rtol=0, atol=1e-5)
