"""A check: one promise, the losses it concerns, and how a loss is searched for a batch that breaks it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.strategies import SearchStrategy

from prefopt.batch import PreferenceBatch
from prefopt.loss import Loss
from prefopt.registry import Registry, load_registry
from prefopt.testing.batches import cases, options
from prefopt.testing.case import Case
from prefopt.testing.snippets import snippet_of_case, snippet_of_class

LossClass = type[Loss]


class Broken(AssertionError):
    """A promise does not hold. `case` is the batch that shows it, where it takes one."""

    case: Case | None = None


class NotApplicable(Exception):
    """The check says nothing about this loss; the message says why."""


class CheckFailed(AssertionError):
    """What a failed check raises: what is wrong, and a program that shows it.

    Attributes:
        reason: one sentence.
        snippet: Python that raises when run.
    """

    def __init__(self, check: str, loss: str, reason: str, snippet: str) -> None:
        super().__init__(f"{loss} fails {check}: {reason}\n\n{snippet}")
        self.reason, self.snippet = reason, snippet


@dataclass(frozen=True)
class Subject:
    """A loss under test, and the registry that knows it, its plugin and the losses it is related to."""

    loss: LossClass
    registry: Registry


@dataclass(frozen=True)
class Check:
    """One promise.

    Attributes:
        name: one word or several joined by `_`.
        promise: what is checked, in a sentence.
        applies: why the check says nothing about a loss, or None where it applies.
        examine: raises `Broken` where the promise does not hold.
        on_case: the same for one batch; None where the promise is not about batches.
    """

    name: str
    promise: str
    applies: Callable[[LossClass], str | None]
    examine: Callable[[Subject], None]
    on_case: Callable[[Case], None] | None = None

    def __call__(self, loss: LossClass, registry: Registry | None = None) -> None:
        """Check a loss.

        Args:
            loss: the class.
            registry: knows the loss's plugin and the losses it is related to; absent: every installed plugin.

        Raises:
            CheckFailed: the promise does not hold.
            NotApplicable: the check says nothing about this loss.
        """
        why_not = self.applies(loss)
        if why_not:
            raise NotApplicable(why_not)
        try:
            self.examine(Subject(loss, registry or load_registry()))
        except NotApplicable:
            raise
        except Exception as error:  # a loss may raise anything
            case = error.case if isinstance(error, Broken) else None
            snippet = snippet_of_case(self.name, case) if case and self.on_case else snippet_of_class(self.name, loss)
            raise CheckFailed(self.name, loss.name, _reason(error), snippet) from error

    def recheck(self, loss: Loss, batch: PreferenceBatch) -> None:
        """Check one batch.

        Raises:
            Broken: the promise does not hold for it.
        """
        if self.on_case is None:
            raise ValueError(f"check {self.name} is not about batches")
        self.on_case(Case.of(loss, batch))


def always(loss: LossClass) -> str | None:
    """For checks that apply to every loss."""
    return None


def unless(reason: str, condition: Callable[[LossClass], Any]) -> Callable[[LossClass], str | None]:
    """Applies where the condition holds; else the reason."""
    return lambda loss: None if condition(loss) else reason


def on_loss(applies: Callable[[LossClass], str | None] = always) -> Callable[[Callable[[Subject], None]], Check]:
    """Makes a check of a function on a loss; its name and its docstring become the check's name and promise."""

    def make(examine: Callable[[Subject], None]) -> Check:
        return Check(examine.__name__, _sentence(examine), applies, examine)

    return make


def on_cases(
    applies: Callable[[LossClass], str | None] = always, *, num_examples: int = 24, **drawn: Any
) -> Callable[[Callable[[Case], None]], Check]:
    """Makes a check of a function on a case: it must hold for random batches of every kind and every option.

    Args:
        applies: which losses it concerns.
        num_examples: how many batches a loss is given, shared out over kinds and options.
        drawn: arguments of `cases`.
    """

    def make(examine: Callable[[Case], None]) -> Check:
        def search(subject: Subject) -> None:
            every = list(itertools.product(sorted(subject.loss.needs.rows), options(subject.loss)))
            share = max(4, -(-num_examples // len(every)))
            for kind, chosen in every:
                falsify(cases(subject.loss, kind=kind, fixed=chosen, **drawn), examine, share)

        return Check(examine.__name__, _sentence(examine), applies, search, examine)

    return make


def falsify(strategy: SearchStrategy[Case], examine: Callable[[Case], None], num_examples: int) -> None:
    """Look for a case that breaks a promise, and make it small.

    Raises:
        Broken: with the smallest such case.
    """

    @_settings(num_examples, Phase.generate, Phase.shrink)
    @hypothesis.given(strategy)
    def run(case: Case) -> None:
        try:
            examine(case)
        except Broken as broken:
            broken.case = broken.case or case
            raise
        except Exception as error:
            raised = Broken(f"raised {_reason(error)}")
            raised.case = case
            raise raised from error

    try:
        run()
    except hypothesis.errors.Flaky:
        raise Broken("two runs on the same batch differ, so what else it breaks cannot be told") from None


def exists(strategy: SearchStrategy[Any], holds: Callable[[Any], bool], num_examples: int = 60) -> bool:
    """Whether some draw satisfies a condition."""

    @_settings(num_examples, Phase.generate)
    @hypothesis.given(strategy)
    def run(drawn: Any) -> None:
        if holds(drawn):
            raise _Found

    try:
        run()
    except _Found:
        return True
    return False


class _Found(Exception):
    pass


def _settings(num_examples: int, *phases: Phase) -> settings:
    return settings(
        max_examples=num_examples,
        phases=phases,
        derandomize=True,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )


def _sentence(examine: Callable[..., None]) -> str:
    return (examine.__doc__ or "").partition("\n")[0].rstrip(".")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, Broken) else f"{type(error).__name__}: {text}"
