"""The reward model of the standard pipeline, learnt from whatever rows a world has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.errors import DataError
from prefopt.worlds import Policies, Rows, Worlds
from prefopt.worlds.policies import token_logps
from prefopt_methods.whitening import whitened

_RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_NUM_STEPS = 200
_LEARNING_RATE = 0.1


def learnt_reward(worlds: Worlds) -> Tensor:
    """[S, P, C] the reward a model learns from each world's rows, whitened under the reference, float64.

    A completion's reward is the sum of an effect for each of its tokens at its prefix, so the model has as many
    parameters as a policy, and shares them between prompts where policies do. Pairs are fitted by the likelihood of
    Bradley and Terry, rankings by that of Plackett and Luce, and labels by logistic regression with a threshold of its
    own, all of them with a ridge penalty on the effects. The ridge is chosen for each world among seven by the
    likelihood of the last fifth of the rows, and the model is fitted again to all of them. This comes before the
    budget's steps and is not counted among them.

    Raises:
        DataError: the rows are demonstrations, which compare nothing.
    """
    if any(rows.kind == "demonstrations" for rows in worlds.rows):
        raise DataError(
            "a reward model cannot learn from demonstrations, which compare nothing; give it pairs, labels or rankings"
        )
    num_fitted = [len(rows) * 4 // 5 for rows in worlds.rows]
    fitted = [rows.take(torch.arange(num)) for rows, num in zip(worlds.rows, num_fitted, strict=True)]
    held_out = [rows.take(torch.arange(num, len(rows))) for rows, num in zip(worlds.rows, num_fitted, strict=True)]

    ridges = torch.tensor(_RIDGES)[:, None].expand(-1, len(worlds.seeds))
    trial = _fit(worlds, fitted, ridges)
    misfit = _misfit(worlds, *trial, _stacked(held_out))
    best = ridges.gather(0, misfit.argmin(0, keepdim=True))
    effects, _ = _fit(worlds, worlds.rows, best)
    return whitened(worlds.tree.logps(effects[0].double()), worlds.logps)


def _fit(worlds: Worlds, rows: Sequence[Rows], ridges: Tensor) -> tuple[Tensor, Tensor]:
    """The effects [L, S, P, N, A] and thresholds [L, S] of the best fit at each of the ridges [L, S]."""
    data = _stacked(rows)
    tables = Policies(worlds, [_LEARNING_RATE] * len(ridges), _NUM_STEPS)
    threshold = torch.zeros(ridges.shape, requires_grad=True)
    optimizer = torch.optim.Adam([threshold], lr=_LEARNING_RATE)
    for _ in range(_NUM_STEPS):
        effects = tables.distances()
        penalty = ridges / 2 * effects.square().sum((-3, -2, -1))
        optimizer.zero_grad()
        tables.step(_misfit(worlds, effects, threshold, data) + penalty)
        optimizer.step()
    return tables.distances().detach(), threshold.detach()


def _misfit(worlds: Worlds, effects: Tensor, threshold: Tensor, rows: Rows) -> Tensor:
    """[L, S] minus the log-likelihood of rows [S, B, ...], nats, from effects [L, S, P, N, A] and thresholds [L, S]."""
    size = rows.completions.shape[1:]
    prompts = rows.prompts[..., None].expand_as(rows.completions).flatten(1)
    tokens = token_logps(worlds.tree.positions, effects, prompts, rows.completions.flatten(1))
    rewards = tokens.sum(-1).unflatten(-1, size)
    if rows.desirable is not None:
        above = rewards[..., 0] - threshold[..., None]
        misfit = -logsigmoid(torch.where(rows.desirable, above, -above))
    else:
        # Each completion is chosen among itself and those ranked below it.
        choices = rewards.flip(-1).logcumsumexp(-1).flip(-1)
        misfit = (choices - rewards).sum(-1)
    return (misfit if rows.weights is None else misfit * rows.weights).sum(-1)


def _stacked(rows: Sequence[Rows]) -> Rows:
    """Rows of S worlds as one [S, B, ...]."""
    given = {field.name: [getattr(each, field.name) for each in rows] for field in fields(Rows)[1:]}
    return Rows(rows[0].kind, **{name: torch.stack(column) for name, column in given.items() if column[0] is not None})
