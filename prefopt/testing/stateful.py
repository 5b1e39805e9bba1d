"""Checks of what a loss carries from step to step and draws at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import safetensors.torch
from torch import Tensor

from prefopt.testing.batches import cases
from prefopt.testing.case import Case
from prefopt.testing.check import Broken, NotApplicable, Subject, exists, falsify, on_loss, unless
from prefopt.testing.compare import differ, everything, must_equal, outputs

State = Mapping[str, Tensor]


@on_loss(unless("it declares no state", lambda loss: loss.needs.state))
def state(subject: Subject) -> None:
    """State goes in and comes out with the same names, finite and detached, can be saved, and is passed on."""
    falsify(cases(subject.loss), _state_on_case, 16)

    def passed_on(pair: tuple[Case, Case]) -> bool:
        first, second = pair
        later = replace(second, loss=first.loss, state=first.output().state)
        fresh = replace(second, loss=first.loss, state=first.loss.initial_state())
        return differ(dict(later.output().state), dict(fresh.output().state))

    one = cases(subject.loss, carried=False)
    if not exists(st.tuples(one, one), passed_on):
        raise Broken("the state after a second batch never depends on the first; drop needs.state")


def _state_on_case(case: Case) -> None:
    initial = case.loss.initial_state()
    if not initial:
        raise Broken("it declares needs.state, but initial_state is empty")
    given = initial if case.state is None else case.state
    before = {name: value.clone() for name, value in given.items()}
    output = replace(case, state=given).output()
    must_equal(dict(given), before, "it is changed in place, from {expected} to {found}")
    if output.state.keys() != initial.keys():
        raise Broken(f"the new state has {sorted(output.state)}; the initial state has {sorted(initial)}")
    for name, value in output.state.items():
        if value.shape != initial[name].shape:
            raise Broken(f"state {name} has shape {list(value.shape)}, at first {list(initial[name].shape)}")
        if not value.isfinite().all():
            raise Broken(f"state {name} is {value.tolist()}")
        if value.requires_grad:
            raise Broken(f"state {name} carries a gradient")
    if case.state is None:
        implied = case.loss(replace(case.batch(), state=None))
        must_equal(
            outputs(implied), outputs(output), "{found} where the batch has no state, {expected} with the initial one"
        )
    saved = safetensors.torch.load(safetensors.torch.save(dict(output.state)))
    must_equal(saved, dict(output.state), "the state is {found} once saved and loaded, {expected} before")
    kept, loaded = (everything(replace(case, state=one)) for one in (output.state, saved))
    must_equal(loaded, kept, "{found} from the saved state, {expected} from the state itself")


@on_loss()
def draws(subject: Subject) -> None:
    """What is drawn at random depends on seed, step and row id, and not on a row's place or company."""

    def changes(case: Case, **changed: Any) -> bool:
        assert case.draws is not None
        return differ(everything(case), everything(replace(case, draws=replace(case.draws, **changed))))

    some = cases(subject.loss, carried=False)
    if not exists(some, lambda case: changes(case, seed=12345, step=12345, row_ids=_others(case)), 16):
        raise NotApplicable("it draws nothing at random")
    if not exists(some, lambda case: changes(case, step=12345)):
        raise Broken("what it draws does not change with the step")
    if not exists(some, lambda case: changes(case, seed=12345)):
        raise Broken("what it draws does not change with the seed")
    if not exists(some, lambda case: changes(case, row_ids=_others(case))):
        raise Broken("what it draws does not depend on the row ids, so it depends on a row's place in the batch")


def _others(case: Case) -> tuple[int, ...]:
    return tuple(range(1000, 1000 + len(case)))
