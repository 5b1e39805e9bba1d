"""Every check passes for losses that keep its promise and finds those that do not."""

from __future__ import annotations

from typing import Any

import pytest

from prefopt.testing import CHECKS, CheckFailed
from prefopt.testing.check import NotApplicable
from tests.testing.planted import FAULTS, GOOD, REGISTRY

DOCUMENTED = {"docstring", "example"}  # which only the first of the good losses is
PLANTED = [
    pytest.param(check, loss, id=f"{check}-{loss.__name__}") for check, losses in FAULTS.items() for loss in losses
]


def test_every_check_has_a_planted_fault():
    assert FAULTS.keys() == CHECKS.keys()


@pytest.mark.parametrize(("check", "loss"), PLANTED, ids=lambda one: getattr(one, "__name__", one))
def test_check_finds_the_fault(check, loss):
    with pytest.raises(CheckFailed, match=f"{loss.name} fails {check}: "):
        CHECKS[check](loss, REGISTRY)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("loss", GOOD)
def test_check_passes_for_a_loss_that_keeps_the_promise(check, loss):
    if check in DOCUMENTED and loss is not GOOD[0]:
        return
    try:
        CHECKS[check](loss, REGISTRY)
    except NotApplicable:
        pass


@pytest.mark.parametrize(
    ("check", "loss", "words"),
    [
        ("closed_form", "WrongSign", "autograd"),
        ("extremes", "NaiveLogSigmoid", "is inf in float32; in float64 it is"),
        ("reference_gradient", "LeakedReference", "reference_chosen gets a gradient"),
        ("row_independence", "Coupled", "declare needs.coupled"),
        ("missing_inputs", "MissingReferenceIsTaken", "a batch without reference is taken"),
        ("row_kinds", "AnotherKindIsTaken", "a batch of (labels|rankings|demonstrations) is taken"),
        ("shape_and_dtype", "Reduced", "one value per row and never reduces"),
        ("ranges", "OutOfRangeIsClamped", r"beta=\S+ is accepted"),
        ("ranges", "NoRange", "beta has no range"),
        ("no_silent_option", "SilentOption", "smoothing changes nothing"),
        ("state", "MutatedState", "changed in place"),
        ("relations", "RelationToNobody", "'nobody', which no plugin brings"),
        ("docstring", "NoSection", "no section Differs:"),
        ("docs_page", "PagelessAndMisnamed", "no docs/losses/pageless.md"),
        ("name", "PagelessAndMisnamed", "its entry point 'without_a_page'"),
        ("name", "Misplaced", "its module 'tests.testing.planted'"),
    ],
)
def test_message_says_what_is_wrong(check: str, loss: str, words: str):
    (planted,) = [one for one in FAULTS[check] if one.__name__ == loss]
    with pytest.raises(CheckFailed, match=words):
        CHECKS[check](planted, REGISTRY)


def test_a_failure_shrinks_to_one_row():
    with pytest.raises(CheckFailed) as failure:
        CHECKS["closed_form"](next(iter(FAULTS["closed_form"])), REGISTRY)
    assert "policy_chosen=torch.tensor([-0.015625], dtype=torch.float64)" in failure.value.snippet


def test_checks_that_do_not_apply_say_why():
    def why(check: str, loss: Any) -> str:
        with pytest.raises(NotApplicable) as reason:
            CHECKS[check](loss, REGISTRY)
        return str(reason.value)

    good, ranking, *_ = GOOD
    assert why("absent_slots", good) == "it reads no rankings"
    assert why("closed_form", ranking) == "it has no closed form"
    assert why("draws", good) == "it draws nothing at random"
    assert why("docs_page", good) == "it is not one of prefopt's own"
    assert why("name", ranking) == "it does not come from an installed plugin"
