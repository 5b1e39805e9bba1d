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
        DataError: the rows are demonstrations, or fewer than five.
    """
    effects, _ = _fit(worlds, worlds.rows, _best_ridges(worlds))
    return whitened(worlds.tree.logps(effects[0].double()), worlds.logps)


def _best_ridges(worlds: Worlds) -> Tensor:
    """[1, S] the ridge under which the first four fifths of a world's rows say most about the rest."""
    fitted, held_out = zip(*(_split(rows) for rows in worlds.rows), strict=True)
    ridges = torch.tensor(_RIDGES)[:, None].expand(-1, len(worlds.seeds))
    misfit = _misfit(worlds, *_fit(worlds, fitted, ridges), _stacked(held_out))
    return ridges.gather(0, misfit.argmin(0, keepdim=True))


def _split(rows: Rows) -> tuple[Rows, Rows]:
    """The first four fifths of the rows, and the rest."""
    if rows.kind == "demonstrations":
        raise DataError("a reward model cannot learn from demonstrations; it takes pairs, labels or rankings")
    if len(rows) < 5:
        raise DataError(
            f"a reward model holds a fifth of its rows out; it takes at least 5, and this world has {len(rows)}"
        )
    index = torch.arange(len(rows))
    num_fitted = len(rows) * 4 // 5
    return rows.take(index[:num_fitted]), rows.take(index[num_fitted:])


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
    prompts = rows.prompts[..., None].expand_as(rows.completions).flatten(1)
    tokens = token_logps(worlds.tree.positions, effects, prompts, rows.completions.flatten(1))
    rewards = tokens.sum(-1).view(len(effects), *rows.completions.shape)
    if rows.desirable is not None:
        above = rewards[..., 0] - threshold[..., None]
        misfit = -logsigmoid(torch.where(rows.desirable, above, -above))
    else:
        *better, rest = rewards.unbind(-1)
        misfit = torch.zeros_like(rest)
        for chosen in reversed(better):  # each is chosen among itself and those ranked below it
            rest = torch.logaddexp(chosen, rest)
            misfit = misfit + rest - chosen
    return (misfit if rows.weights is None else misfit * rows.weights).sum(-1)


def _stacked(rows: Sequence[Rows]) -> Rows:
    """Rows of S worlds as one [S, B, ...]."""
    given = {field.name: [getattr(each, field.name) for each in rows] for field in fields(Rows)[1:]}
    return Rows(rows[0].kind, **{name: torch.stack(column) for name, column in given.items() if column[0] is not None})
