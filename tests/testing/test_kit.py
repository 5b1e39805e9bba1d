"""The kit as a whole: what it reports, what it does with expected failures, and how pytest sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import prefopt
from prefopt.testing import CHECKS, Check, check_loss, parametrize_with_checks
from tests.testing.planted import REGISTRY, Good, GoodRanking, NaiveLogSigmoid, WrongSign


def with_expectations(base, **reasons):
    return type(base.__name__, (base,), {"expected_failures": reasons, "__module__": base.__module__})


def outcomes(loss, *checks):
    return {result.check: result.outcome for result in check_loss(loss, REGISTRY, checks or None)}


def test_a_good_loss_passes_every_check_that_applies():
    found = check_loss(Good, REGISTRY)
    assert [result.check for result in found] == list(CHECKS)
    assert {result.outcome for result in found} == {"passed", "not applicable"}
    assert all(bool(result.message) == (result.outcome == "not applicable") for result in found)
    assert all(not result.snippet and result.loss == "good" for result in found)


def test_a_failure_is_reported_with_its_reason_and_a_snippet():
    (result,) = check_loss(WrongSign, REGISTRY, ["closed_form"])
    assert result.outcome == "failed"
    assert "autograd" in result.message
    assert "recheck(loss, batch)" in result.snippet
    assert result.seconds > 0


def test_one_failure_does_not_stop_the_other_checks():
    found = outcomes(NaiveLogSigmoid)
    assert found.keys() == CHECKS.keys()
    assert {check for check, outcome in found.items() if outcome == "failed"} == {"extremes", "docstring", "example"}


def test_an_expected_failure_must_fail():
    known = with_expectations(WrongSign, closed_form="the sign is a matter of taste", finite_differences="the same")
    results = check_loss(known, REGISTRY, ["closed_form", "finite_differences"])
    assert [result.outcome for result in results] == ["expected failure"] * 2
    assert results[0].message == "the sign is a matter of taste"


def test_an_expected_failure_that_passes_is_an_error():
    (result,) = check_loss(with_expectations(Good, closed_form="it was wrong once"), REGISTRY, ["closed_form"])
    assert result.outcome == "failed"
    assert result.message == "expected to fail and passes now: remove it from expected_failures"


def test_an_expected_failure_of_a_check_that_does_not_apply_is_an_error():
    (result,) = check_loss(with_expectations(Good, absent_slots="who knows"), REGISTRY, ["absent_slots"])
    assert result.outcome == "failed"
    assert "it does not apply: it reads no rankings" in result.message


@pytest.mark.parametrize(
    ("reasons", "message"),
    [
        ({"closed_forn": "a reason"}, "there is no such check; did you mean 'closed_form'?"),
        ({"closed_form": " "}, "expected_failures gives no reason"),
    ],
)
def test_an_expected_failure_needs_a_known_check_and_a_reason(reasons, message):
    first, *_ = check_loss(with_expectations(WrongSign, **reasons), REGISTRY, ["closed_form"])
    assert first.outcome == "failed"
    assert message in first.message


def test_an_unknown_check_suggests_the_nearest():
    with pytest.raises(prefopt.UnknownNameError, match="unknown check 'row_orders'; did you mean 'row_order'"):
        check_loss(Good, REGISTRY, ["row_orders"])


def test_every_check_states_its_promise():
    assert all(isinstance(check, Check) and check.name == name for name, check in CHECKS.items())
    assert len({check.promise for check in CHECKS.values()}) == len(CHECKS)
    assert all(len(check.promise.split()) > 5 for check in CHECKS.values())


def test_checks_find_the_installed_plugins_by_themselves():
    CHECKS["name"](prefopt.load_registry().loss_class("dpo"))


# pytest --------------------------------------------------------------------------------------------------------------


def parameters(*losses):
    mark = parametrize_with_checks(*losses).mark
    assert mark.args[0] == "check"
    return {case.id: case for case in mark.args[1]}


def test_checks_that_do_not_apply_are_left_out():
    good, ranking = parameters(Good), parameters(GoodRanking)
    assert "good-closed_form" in good
    assert "good-absent_slots" not in good
    assert "good_ranking-absent_slots" in ranking
    assert "good_ranking-closed_form" not in ranking


def test_names_and_classes_go_together():
    both = parameters("dpo", Good)
    assert {"dpo-closed_form", "good-closed_form"} < both.keys()


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(prefopt.UnknownNameError, match="did you mean 'dpo'"):
        parametrize_with_checks("dpoo")


THEIRS = """
from prefopt.testing import parametrize_with_checks
from tests.testing.planted import Good, WrongSign

class Known(WrongSign):
    name = "known"
    expected_failures = {"closed_form": "known since May"}

class Mended(Good):
    name = "mended"
    expected_failures = {"closed_form": "known since May"}

class Wrong(WrongSign):
    name = "wrong"

@parametrize_with_checks(Good, Wrong, Known, Mended)
def test_promise(check):
    check()
"""
ENVIRONMENT = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(Path(__file__).parents[2])}


def test_outcomes_are_those_of_pytest(tmp_path):
    """In a test file of someone else: passed, failed, expected to fail, and strict about it."""
    path = tmp_path / "test_theirs.py"
    path.write_text(THEIRS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA", "-k", "closed_form", str(path)]
    printed = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True).stdout
    for line in (
        "PASSED test_theirs.py::test_promise[good-closed_form]",
        "FAILED test_theirs.py::test_promise[wrong-closed_form] - prefopt.testing.check.CheckFailed: wrong fails",
        "XFAIL test_theirs.py::test_promise[known-closed_form] - known since May",
        "FAILED test_theirs.py::test_promise[mended-closed_form] - [XPASS(strict)] known since May",
    ):
        assert line in printed
    assert "recheck(loss, batch)" in printed


def test_a_wrong_declaration_fails_in_pytest():
    case = parameters(with_expectations(Good, closed_forn="a reason"))["good-closed_forn"]
    with pytest.raises(AssertionError, match="did you mean 'closed_form'"):
        case.values[0]()


def test_missing_extras_are_named(tmp_path):
    """A module that cannot be imported stands before the real one."""
    path = tmp_path / "hypothesis.py"
    path.write_text("raise ModuleNotFoundError(name='hypothesis')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "prefopt", "check", "dpo"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    needs = "prefopt.testing needs hypothesis; install what it needs with pip install 'prefopt[testing]'"
    assert done.stderr == f"error: {needs}\n"
