"""Checks of inputs: a loss reads what it declares, refuses what is missing, and leaves all as it was."""

from __future__ import annotations

from dataclasses import replace

import torch

from prefopt.batch import RowKind
from prefopt.loss import Needs
from prefopt.testing.batches import cases
from prefopt.testing.case import Case
from prefopt.testing.check import Broken, Subject, falsify, on_cases, on_loss, unless
from prefopt.testing.compare import everything, must_equal

KINDS: tuple[RowKind, ...] = ("pairs", "labels", "rankings", "demonstrations")
ALL = Needs(rows=KINDS, reference=True, scores=True, tokens=True, distribution="both", mismatched=True)


@on_cases(num_examples=8, needs=ALL)
def undeclared_inputs(case: Case) -> None:
    """Inputs that the loss does not declare change nothing, and state that it does not declare is not kept."""
    needs = case.loss.needs
    declared = _declared(case, needs)
    everywhere, there = everything(case), everything(declared)
    must_equal(
        {name: tensor for name, tensor in everywhere.items() if name in there},
        there,
        "{found} where inputs are present that the loss does not declare, {expected} without them",
    )
    for name, tensor in everywhere.items():
        if name not in there and tensor.any():
            raise Broken(f"{name} is {tensor.tolist()}, of an input that the loss does not declare")
    if not needs.state and (case.output().state or case.loss.initial_state()):
        raise Broken("it keeps state without needs.state, so the engine would drop it")


def _declared(case: Case, needs: Needs) -> Case:
    """The case with what the loss declares and nothing else."""
    drop = []
    for name in case.tensors:
        inside = "." in name
        undeclared = {
            "reference_kl": needs.distribution != "both",
            "log_sum_squares": needs.distribution is None,
            "mismatched": not needs.mismatched,
            "reference": not needs.reference,
            "scores": not needs.scores and case.kind == "pairs",
        }
        what = next((word for word in undeclared if word in name), None)
        tokenwise = needs.tokens or needs.distribution is not None
        if (what and undeclared[what]) or (inside and not tokenwise):
            drop.append(name)
    return case.without(*drop)


@on_cases(num_examples=4)
def missing_inputs(case: Case) -> None:
    """A batch without something that the loss declares is refused by name."""
    needs = case.loss.needs
    groups = {
        "reference": (needs.reference, "reference"),
        "scores": (needs.scores and case.kind == "pairs", "scores"),
        "tokens": (needs.tokens or needs.distribution is not None, "token"),
        "log_sum_squares": (needs.distribution == "policy", "log_sum_squares"),
        "reference_kl": (needs.distribution == "both", "reference_kl"),
        "mismatched": (needs.mismatched, "mismatched"),
    }
    if case.kind == "demonstrations":
        groups = {}  # they hold nothing that could be missing
    for group, (needed, word) in groups.items():
        names = [name for name in case.tensors if _belongs(name, group)]
        if needed and names:
            _must_refuse(case.without(*names), word)


def _belongs(name: str, group: str) -> bool:
    if group == "reference":
        return name.startswith("reference")
    if group == "tokens":
        return "." in name
    return group in name


def _must_refuse(case: Case, word: str) -> None:
    try:
        case.output()
    except ValueError as error:
        if case.loss.name in str(error) and word in str(error):
            return
        raise Broken(
            f"a batch without {word} is refused without naming the loss and what is missing: {error}"
        ) from None
    except Exception as error:
        raise Broken(
            f"a batch without {word} raises {type(error).__name__} where ValueError says what is missing"
        ) from None
    raise Broken(f"a batch without {word} is taken, which the loss declares to read")


@on_loss(unless("it reads every kind of rows", lambda loss: len({*loss.needs.rows}) < len(KINDS)))
def row_kinds(subject: Subject) -> None:
    """A batch of a kind that the loss does not declare is refused by name."""

    def refused(case: Case) -> None:
        try:
            case.output()
        except ValueError as error:
            if case.loss.name in str(error) and case.kind in str(error):
                return
            raise Broken(f"a batch of {case.kind} is refused without naming the loss and the kind: {error}") from None
        raise Broken(f"a batch of {case.kind} is taken, which needs.rows does not name")

    for kind in KINDS:
        if kind not in subject.loss.needs.rows:
            falsify(cases(subject.loss, kind=kind, needs=ALL, carried=False), refused, 2)


@on_cases(num_examples=8)
def determinism(case: Case) -> None:
    """The same batch gives the same numbers, whatever torch's random numbers are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = everything(case)
        torch.manual_seed(2)
        must_equal(
            everything(case),
            first,
            "{found} the second time, {expected} the first; random numbers come from batch.draws",
        )


@on_cases(num_examples=8)
def inputs_untouched(case: Case) -> None:
    """Neither values, gradient nor reward change the batch or the state they are given."""
    held = {**case.tensors, **{f"state {name}": value for name, value in (case.state or {}).items()}}
    before = {name: tensor.clone() for name, tensor in held.items()}
    everything(case)
    for side, completions in case.batch().sides().items():
        if side != "mismatched":
            case.loss.reward(completions)
    try:
        must_equal(held, before, "it was {expected} before the loss saw it and is {found} after")
    except Broken as broken:
        # The case now holds what the loss made of it; the snippet should start from what it was given.
        state = None if case.state is None else {name: before[f"state {name}"] for name in case.state}
        broken.case = replace(case, tensors={name: before[name] for name in case.tensors}, state=state)
        raise
