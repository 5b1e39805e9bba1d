"""Checks of rows: who may influence whom, and what order, weights and absent slots must not change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from prefopt.loss import LossOutput
from prefopt.testing.batches import cases
from prefopt.testing.case import DIFFERENTIABLE, Case
from prefopt.testing.check import Broken, Subject, exists, on_cases, on_loss, unless
from prefopt.testing.compare import differ, gradients, must_agree, outputs, state


@on_cases(unless("it is declared coupled", lambda loss: not loss.needs.coupled), min_rows=2)
def row_independence(case: Case) -> None:
    """A row of a loss that is not declared coupled is the same without the other rows."""
    together = {**outputs(case.output()), **gradients(case)}
    for row in range(len(case)):
        alone = case.rows([row])
        must_agree(
            {**outputs(alone.output()), **gradients(alone)},
            _taken(case, together, [row]),
            f"{{found}} where row {row} stands alone, {{expected}} among {len(case)} rows; declare needs.coupled",
            rtol=1e-10,
        )


@on_loss(unless("it is not declared coupled", lambda loss: loss.needs.coupled))
def coupling(subject: Subject) -> None:
    """In a loss that is declared coupled some row changes with the others."""

    def influenced(case: Case) -> bool:
        alone = case.rows([0])
        together = {**outputs(case.output()), **gradients(case)}
        return differ({**outputs(alone.output()), **gradients(alone)}, _taken(case, together, [0]))

    if not exists(cases(subject.loss, min_rows=2), influenced):
        raise Broken("no row changes with the others in any batch tried; drop needs.coupled, which costs a second pass")


@on_cases(min_rows=2)
def row_order(case: Case) -> None:
    """The order of the rows changes nothing but the order of the results."""
    forward = {**outputs(case.output()), **gradients(case)}
    rows = list(range(len(case)))
    for order in (rows[::-1], rows[1:] + rows[:1]):
        moved = case.rows(order)
        words = f"{{found}} with the rows in the order {order}, {{expected}} in the first order"
        must_agree(
            {**outputs(moved.output()), **gradients(moved)},
            _taken(case, forward, order),
            words,
        )
        must_agree(
            state(moved.output()),
            state(case.output()),
            f"{{found}} with the rows in the order {order}, not {{expected}}",
        )


@on_cases()
def row_weights(case: Case) -> None:
    """A row of weight 2 is the row twice, in the loss that the engine forms, its gradient and the state."""
    counts = [2, 1, 3, 2][: len(case)]
    keys = DIFFERENTIABLE[case.kind]
    leaves = {keys[name]: tensor.clone().requires_grad_() for name, tensor in case.inputs.items()}
    plain = case.given(**leaves)
    weighted = plain.given(weights=torch.tensor(counts, dtype=torch.float64))
    repeated = plain.given(weights=torch.ones(len(case), dtype=torch.float64)).repeat(counts)
    found, expected = (_reduced(one, leaves) for one in (weighted, repeated))
    must_agree(found, expected, f"{{found}} with row weights {counts}, {{expected}} with that many copies")


def _reduced(case: Case, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """The loss as the engine reduces it, its gradient and the new state."""
    output = case.output()
    total = reduced(output, case.weights)
    entries: Sequence[Tensor | None] = [None] * len(leaves)
    if total.requires_grad:
        entries = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    slopes = {f"gradient of {name}": entry for name, entry in zip(leaves, entries, strict=True) if entry is not None}
    return {"reduced loss": total, **slopes, **state(output)}


def reduced(output: LossOutput, weights: Tensor) -> Tensor:
    """The engine's rule: per term, sum of weight x value over sum of weight x normaliser."""
    terms = output.all_terms().values()
    return torch.stack([(weights * values).sum() / (weights * normaliser).sum() for values, normaliser in terms]).sum()


@on_cases(unless("it reads no rankings", lambda loss: "rankings" in loss.needs.rows))
def absent_slots(case: Case) -> None:
    """An absent slot of a ranking changes nothing, wherever it stands and whatever it holds."""
    if case.kind != "rankings":
        return
    slots = case.tensors["lengths"].shape[1]
    without = {**outputs(case.output()), **gradients(case)}
    for place in (0, slots):
        for junk in (0.0, 1000.0):
            padded = _with_slot(case, place, junk)
            found = {**outputs(padded.output()), **gradients(padded)}
            for name, tensor in found.items():
                if tensor.dim() == 2:
                    if tensor[:, place].any():
                        raise Broken(f"{name} is {tensor[:, place].tolist()} in an absent slot")
                    found[name] = torch.cat([tensor[:, :place], tensor[:, place + 1 :]], 1)
            must_agree(found, without, f"{{found}} with an absent slot at place {place}, {{expected}} without")


def _with_slot(case: Case, place: int, junk: float) -> Case:
    """The case with one more slot, of length 0, that holds numbers no one may read."""
    fill = {"policy": -junk, "reference": -junk / 2, "scores": junk, "lengths": 0}
    columns = {}
    for name, value in fill.items():
        if name in case.tensors:
            tensor = case.tensors[name]
            column = torch.full_like(tensor[:, :1], value)
            columns[name] = torch.cat([tensor[:, :place], column, tensor[:, place:]], 1)
    if "tokens.offsets" in case.tensors:
        columns["tokens.offsets"] = torch.cat(
            [torch.zeros(1, dtype=torch.long), columns["lengths"].flatten().cumsum(0)]
        )
    return case.given(**columns)


def _taken(case: Case, tensors: dict[str, Tensor], order: Sequence[int]) -> dict[str, Tensor]:
    """Results of a case for some of its rows."""
    taken = {}
    for name, tensor in tensors.items():
        key = DIFFERENTIABLE[case.kind].get(name.rpartition(" of ")[2]) if " of " in name else None
        if key is not None and "." in key:  # one entry a token: it goes where the token goes
            taken[name] = replace(case, tensors={**case.tensors, key: tensor}).rows(order).tensors[key]
        else:
            taken[name] = tensor[torch.tensor(order)]
    return taken
