"""A loss on the batches of many trials and seeds at once.

Where a loss is made of tensor operations alone, its trials are one call: hyper-parameters become tensors, and `vmap`
gives each policy its own batch, coupling and state. What looks at numbers on its way (a branch on a hyper-parameter,
tokens of uneven completions) is called trial by trial instead. Both mean the same; the first batch decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from prefopt.batch import PreferenceBatch, RowKind, Tokens
from prefopt.draws import Draws
from prefopt.loss import Loss, LossOutput

# A batch as the `from_` constructors of PreferenceBatch take it. A side's tokens are under "SIDE_tokens" ("tokens" for
# labels and rankings) by the names of `Tokens`, each [..., B, depth] (rankings: [..., B, K, depth]).
Columns = Mapping[str, Any]
State = Mapping[str, Tensor]


class StackedLoss:
    """T losses of one class, to be called on S batches each.

    Args:
        losses: [T] the same loss at different hyper-parameters.
    """

    def __init__(self, losses: Sequence[Loss]) -> None:
        self.losses = losses
        self._state: State = {}
        self._at_once: bool | None = None

    def __call__(self, kind: RowKind, columns: Columns, step: int) -> Tensor:
        """[T, S] the objective of each batch: over its terms, sum of weight x value over sum of weight x normaliser.

        The state of losses that carry one goes on to the next call.

        Args:
            kind: of the rows.
            columns: tensors [T, S, B] (rankings: [T, S, B, K]).
            step: keys the random draws, which all trials and seeds share.
        """
        if self._at_once is None:
            self._at_once = self._can_be_stacked(kind, columns, step)
        values, state = (self._stacked if self._at_once else self._one_by_one)(kind, columns, step)
        self._state = {name: value.detach() for name, value in state.items()}
        return values

    def _can_be_stacked(self, kind: RowKind, columns: Columns, step: int) -> bool:
        if any(name.endswith("tokens") for name in columns):
            return False
        try:
            self._stacked(kind, columns, step)
        except (RuntimeError, TypeError, ValueError):  # what vmap and tensors say of a value that must be looked at
            return False
        return True

    def _stacked(self, kind: RowKind, columns: Columns, step: int) -> tuple[Tensor, State]:
        names = list(columns)
        shape = columns[names[0]].shape[:2]
        num_rows = columns[names[0]].shape[2]
        loss_class, first = type(self.losses[0]), self.losses[0]
        fields = {name: [getattr(loss, name) for loss in self.losses] for name in loss_class.model_fields}
        fixed = {name: values[0] for name, values in fields.items() if all(value == values[0] for value in values)}
        differ = {name: torch.tensor(values) for name, values in fields.items() if name not in fixed}
        varied = {name: values.repeat_interleave(shape[1]) for name, values in differ.items()}
        state = self._state or {name: value.expand(shape.numel()) for name, value in first.initial_state().items()}

        def one(varied: State, state: State, tensors: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            loss = loss_class.model_construct(None, **fixed, **varied)
            values, after = _objective(loss, kind, dict(zip(names, tensors, strict=True)), state, step, num_rows)
            return values[0], dict(after)

        values, after = vmap(one)(varied, dict(state), [columns[name].flatten(0, 1) for name in names])
        return values.reshape(shape), after

    def _one_by_one(self, kind: RowKind, columns: Columns, step: int) -> tuple[Tensor, State]:
        coupled = self.losses[0].needs.coupled
        values, states = [], []
        for trial, loss in enumerate(self.losses):
            own = _at(columns, trial)
            num_seeds, num_rows = next(iter(own.values())).shape[:2]
            if not coupled:
                values.append(_objective(loss, kind, _merged(own), {}, step, num_rows)[0])
                continue
            for seed in range(num_seeds):
                state = {name: value[trial * num_seeds + seed] for name, value in self._state.items()}
                value, after = _objective(loss, kind, _at(own, seed), state or loss.initial_state(), step, num_rows)
                values.append(value)
                states.append(after)
        after = {name: torch.stack([state[name] for state in states]) for name in (states[0] if states else {})}
        return torch.cat(values).reshape(len(self.losses), -1), after


def _objective(
    loss: Loss, kind: RowKind, columns: Columns, state: State, step: int, num_rows: int
) -> tuple[Tensor, State]:
    """[G] the objective of each of G batches of `num_rows` rows that lie end to end, and the state after."""
    tensors = {name: _tokens(value) if isinstance(value, dict) else value for name, value in columns.items()}
    total = len(next(iter(value for value in columns.values() if isinstance(value, Tensor))))
    draws = Draws(tuple(range(num_rows)) * (total // num_rows), step=step)
    batch = getattr(PreferenceBatch, f"from_{kind}")(**tensors, state=state or None, draws=draws)
    output = LossOutput.of(loss.values(batch))

    def summed(values: Tensor) -> Tensor:
        weighted: Tensor = batch.weights * values
        return weighted.reshape(-1, num_rows).sum(-1)

    objective = batch.weights.new_zeros(total // num_rows)
    for values, normaliser in output.all_terms().values():
        objective = objective + summed(values) / summed(normaliser)
    return objective, output.state


def _at(columns: Columns, index: int) -> dict[str, Any]:
    return {name: _at(value, index) if isinstance(value, dict) else value[index] for name, value in columns.items()}


def _merged(columns: Columns) -> dict[str, Any]:
    """[S, B, ...] as [S * B, ...]."""
    return {name: _merged(value) if isinstance(value, dict) else value.flatten(0, 1) for name, value in columns.items()}


def _tokens(padded: Mapping[str, Tensor]) -> Tokens:
    """Padded [B, depth] tables and `lengths` [B] as tokens laid end to end (rankings: [B, K] completions)."""
    lengths = padded["lengths"].flatten()
    places = torch.arange(padded["policy"].shape[-1])
    taken = places < lengths[:, None]
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    flat = {name: value.flatten(0, -2)[taken] for name, value in padded.items() if name != "lengths"}
    return Tokens(offsets=offsets, **flat)
