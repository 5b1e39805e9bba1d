"""The check of the identities that a loss declares between itself and other losses."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from prefopt.errors import UnknownNameError
from prefopt.loss import Loss, Needs, Relation
from prefopt.testing.batches import cases
from prefopt.testing.case import Case
from prefopt.testing.check import Broken, Subject, falsify, on_loss, unless
from prefopt.testing.compare import must_agree


@on_loss(unless("it declares no relations", lambda loss: loss.relations))
def relations(subject: Subject) -> None:
    """Where a declared identity holds, losses and gradients are those of the other loss."""
    for relation in subject.loss.relations:
        try:
            other = subject.registry.loss_class(relation.to)
        except UnknownNameError:
            raise Broken(f"it is related to {relation.to!r}, which no plugin brings") from None
        _Identity(subject.loss, other, relation).check()


class _Identity:
    """One relation between two losses."""

    def __init__(self, loss: type[Loss], other: type[Loss], relation: Relation) -> None:
        self._loss, self._other, self._relation = loss, other, relation

    def check(self) -> None:
        as_pairs = self._relation.num_completions is not None
        kinds = {"rankings"} if as_pairs else {*self._loss.needs.rows} & {*self._other.needs.rows}
        if not kinds:
            raise Broken(f"it is related to {self._relation.to!r}, but the two read no rows in common")
        for kind in sorted(kinds):
            drawn = cases(
                self._loss,
                kind=kind,  # type: ignore[arg-type]
                fixed=self._relation.where,
                needs=_both(self._loss.needs, self._other.needs),
                num_completions=self._relation.num_completions,
                carried=False,
            )
            falsify(drawn, self._same, 16)

    def _same(self, case: Case) -> None:
        shared = {
            name: getattr(case.loss, name) for name in self._other.model_fields if name in type(case.loss).model_fields
        }
        free = {name: value for name, value in shared.items() if name not in self._relation.where}
        other = self._other(**{**free, **self._relation.given})
        mate = replace(case, loss=other, state=None)
        mine = case.autograd()
        if self._relation.num_completions is not None:
            mate = _pairs(case, other)
            yours = _as_rankings(case, mate.autograd())
        else:
            yours = mate.autograd()
        words = f"{{found}}, but {other!r} gives {{expected}}"
        must_agree({"losses": case.output().losses}, {"losses": mate.output().losses}, words)
        both = mine.keys() & yours.keys()
        must_agree({name: mine[name] for name in sorted(both)}, {name: yours[name] for name in sorted(both)}, words)


def _both(one: Needs, other: Needs) -> Needs:
    distributions = {one.distribution, other.distribution}
    return replace(
        one,
        reference=one.reference or other.reference,
        scores=one.scores or other.scores,
        tokens=one.tokens or other.tokens,
        distribution="both" if "both" in distributions else "policy" if "policy" in distributions else None,
        mismatched=one.mismatched or other.mismatched,
    )


def _better(case: Case) -> Tensor:
    """[B] which of two slots has the higher score."""
    return case.tensors["scores"].argmax(1)


def _pairs(case: Case, loss: Loss) -> Case:
    """Rankings of two as pairs: the better completion is the chosen one."""
    rows, better = torch.arange(len(case)), _better(case)
    tensors = {}
    for side, slot in (("chosen", better), ("rejected", 1 - better)):
        for name in ("policy", "reference"):
            if name in case.tensors:
                tensors[f"{name}_{side}"] = case.tensors[name][rows, slot]
        for name in ("lengths", "scores"):
            tensors[f"{side}_{name}"] = case.tensors[name][rows, slot]
    if "weights" in case.tensors:
        tensors["weights"] = case.tensors["weights"]
    return Case(loss, "pairs", tensors, case.draws)


def _as_rankings(case: Case, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradient by both sides of the pairs, put back into the slots."""
    rows, better = torch.arange(len(case)), _better(case)
    policy = torch.zeros_like(case.tensors["policy"])
    for side, slot in (("chosen", better), ("rejected", 1 - better)):
        if f"policy_{side}" in gradients:
            policy[rows, slot] = gradients[f"policy_{side}"]
    return {"policy": policy}
