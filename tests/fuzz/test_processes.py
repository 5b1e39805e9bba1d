"""The same as the shell sees it: exit codes and stderr of real processes."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz import configs, rows
from tests.fuzz.commands import run_process

once = settings(max_examples=1, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck))


def test_one_that_trains(ground):
    outcome = configs.play(configs.Case(configs._base(), codes=(0,)), ground, run_process)
    assert outcome.out == ""


@once
@given(case=configs.CASES["misfitting"])
def test_one_that_is_refused(case, ground):
    configs.play(case, ground, run_process)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(once, max_examples=14)
@given(case=configs.cases())
def test_14_configs(case, ground):
    configs.play(case, ground, run_process)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(once, max_examples=3)
@given(file=rows.files())
def test_3_files_of_rows_twice(file, ground):
    rows.play(file, ground / "model", run_process)
