"""One loss with one batch, as a value that can be changed: cast, reordered, repeated, differentiated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from prefopt.batch import Completions, PreferenceBatch, RowKind, Tokens
from prefopt.draws import Draws
from prefopt.loss import Gradient, Loss, LossOutput

# Which tensor each field of `Gradient` differentiates, for each kind of rows.
_BOTH_SIDES = {
    "policy_chosen": "policy_chosen",
    "policy_rejected": "policy_rejected",
    "chosen_tokens": "chosen_tokens.policy",
    "rejected_tokens": "rejected_tokens.policy",
    "chosen_reference_kl": "chosen_tokens.reference_kl",
    "rejected_reference_kl": "rejected_tokens.reference_kl",
}
_ONE_SIDE = {"policy": "policy", "tokens": "tokens.policy", "reference_kl": "tokens.reference_kl"}
DIFFERENTIABLE: Mapping[RowKind, Mapping[str, str]] = MappingProxyType(
    {
        "pairs": _BOTH_SIDES,
        "labels": _ONE_SIDE,
        "rankings": _ONE_SIDE,
        "demonstrations": {
            "policy_chosen": "policy",
            "chosen_tokens": "tokens.policy",
            "chosen_reference_kl": "tokens.reference_kl",
        },
    }
)
_CONSTRUCTORS: Mapping[RowKind, Callable[..., PreferenceBatch]] = MappingProxyType(
    {
        "pairs": PreferenceBatch.from_pairs,
        "labels": PreferenceBatch.from_labels,
        "rankings": PreferenceBatch.from_rankings,
        "demonstrations": PreferenceBatch.from_demonstrations,
    }
)


@dataclass(frozen=True)
class Case:
    """A loss and all it is given.

    Attributes:
        loss: the loss.
        kind: which constructor of `PreferenceBatch` the tensors are for.
        tensors: the tensors of the batch under the constructor's argument names; those inside a `Tokens` under
            `argument.attribute`, as in `chosen_tokens.policy`.
        draws: the random numbers of the rows; None: those of rows 0, 1, ...
        state: the loss's state; None: its initial state.
    """

    loss: Loss
    kind: RowKind
    tensors: Mapping[str, Tensor]
    draws: Draws | None = None
    state: Mapping[str, Tensor] | None = None

    @classmethod
    def of(cls, loss: Loss, batch: PreferenceBatch) -> Case:
        """The case of a loss and a batch that was built by hand."""
        tensors: dict[str, Tensor] = {"weights": batch.weights}
        for side, completions in batch.sides().items():
            tensors |= _tensors_of(completions, batch.kind, side)
        if batch.kind == "labels":
            tensors |= {"desirable": batch.desirable, "undesirable_weight": batch.undesirable_weight}
        return cls(loss, batch.kind, tensors, batch.draws, batch.state)

    def __len__(self) -> int:
        return len(self.tensors["policy_chosen" if self.kind == "pairs" else "policy"])

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What the loss may be differentiated by, under the names of the fields of `Gradient`."""
        names = DIFFERENTIABLE[self.kind]
        return {name: self.tensors[key] for name, key in names.items() if key in self.tensors}

    @property
    def weights(self) -> Tensor:
        """[B] row weights; ones where the case has none."""
        return self.batch().weights

    def given(self, **changed: Tensor) -> Case:
        """This case with some of its tensors changed or added."""
        return replace(self, tensors={**self.tensors, **changed})

    def without(self, *names: str) -> Case:
        """This case without those tensors; a name stands for its parts, as `tokens` for `tokens.policy`."""
        kept = {name: value for name, value in self.tensors.items() if not {name, name.partition(".")[0]} & {*names}}
        return replace(self, tensors=kept)

    def batch(self, **changed: Tensor) -> PreferenceBatch:
        """The batch, with some of its tensors changed."""
        arguments: dict[str, Any] = {}
        for name, tensor in {**self.tensors, **changed}.items():
            argument, _, part = name.partition(".")
            if part:
                arguments.setdefault(argument, {})[part] = tensor
            else:
                arguments[argument] = tensor
        arguments = {name: Tokens(**value) if isinstance(value, dict) else value for name, value in arguments.items()}
        state = self.loss.initial_state() or None if self.state is None else self.state
        return _CONSTRUCTORS[self.kind](**arguments, state=state, draws=self.draws)

    def output(self, **changed: Tensor) -> LossOutput:
        """What the loss returns, with some of the tensors changed."""
        return self.loss(self.batch(**changed))

    def autograd(self) -> dict[str, Tensor]:
        """The gradient of the sum of the losses by each input that takes part in it, under the names of `Gradient`."""
        leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in self.inputs.items()}
        keys = DIFFERENTIABLE[self.kind]
        total = self.output(**{keys[name]: leaf for name, leaf in leaves.items()}).losses.sum()
        if not total.requires_grad:
            return {}
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        return {name: found for name, found in zip(leaves, gradients, strict=True) if found is not None}

    def closed_form(self) -> dict[str, Tensor]:
        """The loss's own `gradient`, the entries that are not None."""
        gradient = self.loss.gradient(self.batch())
        found = {entry.name: getattr(gradient, entry.name) for entry in fields(Gradient)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def to(self, dtype: torch.dtype) -> Case:
        """Every floating-point tensor of the batch in another precision; the state stays as the loss left it."""
        floats = {name: tensor.to(dtype) for name, tensor in self.tensors.items() if tensor.is_floating_point()}
        return self.given(**floats)

    def rows(self, order: Sequence[int]) -> Case:
        """The rows of those numbers, in that order; a row may come several times."""
        index = torch.tensor(order, dtype=torch.long)
        tensors = {name: tensor[index] for name, tensor in self.tensors.items() if "." not in name}
        for argument in {name.partition(".")[0] for name in self.tensors if "." in name}:
            tensors |= self._tokens_of_rows(argument, order)
        draws = self.draws
        if draws is not None:
            draws = replace(draws, row_ids=tuple(draws.row_ids[row] for row in order))
        return replace(self, tensors=tensors, draws=draws)

    def repeat(self, counts: Sequence[int]) -> Case:
        """Row i `counts[i]` times, one after the other."""
        return self.rows([row for row, count in enumerate(counts) for _ in range(count)])

    def _tokens_of_rows(self, argument: str, order: Sequence[int]) -> dict[str, Tensor]:
        spans = list(pairwise(self.tensors[f"{argument}.offsets"].tolist()))
        slots = len(spans) // len(self)  # completions a row
        taken = [spans[row * slots + slot] for row in order for slot in range(slots)]
        places = torch.tensor([place for start, end in taken for place in range(start, end)], dtype=torch.long)
        lengths = torch.tensor([0, *(end - start for start, end in taken)])
        offsets = f"{argument}.offsets"
        parts = {name for name in self.tensors if name.startswith(f"{argument}.")} - {offsets}
        return {offsets: lengths.cumsum(0), **{name: self.tensors[name][places] for name in sorted(parts)}}


def _tensors_of(completions: Completions, kind: RowKind, side: str) -> dict[str, Tensor]:
    """The tensors of one group of completions under the names of the constructor that put them there."""
    before, after = (f"_{side}", f"{side}_") if kind == "pairs" else ("", "")
    if side == "mismatched":
        found = {"policy": completions.policy, "reference": completions.reference, "lengths": completions.lengths}
        return {f"mismatched_{name}": tensor for name, tensor in found.items() if tensor is not None}
    named = {
        f"policy{before}": completions.policy,
        f"reference{before}": completions.reference,
        f"{after}lengths": completions.lengths,
        f"{after}scores": completions.scores,
    }
    tokens = completions.tokens
    if tokens is not None:
        named |= {f"{after}tokens.{part.name}": getattr(tokens, part.name) for part in fields(Tokens)}
    return {name: tensor for name, tensor in named.items() if tensor is not None}
