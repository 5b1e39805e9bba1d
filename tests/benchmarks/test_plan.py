"""The comparison of plans with runs still runs, on models too small to tell anything."""

from __future__ import annotations

import re

import pytest

from tests.benchmarks.test_performance import script


@pytest.mark.slow
def test_plans_and_runs_stand_side_by_side():
    pytest.importorskip("peft")
    found = re.findall(r"([\d.]+) +([\d.]+) +([\d.]+) *$", script("plan.py", "--small"), re.MULTILINE)
    assert len(found) == 6
    assert all(0.7 < float(ratio) < 1.5 for _, _, ratio in found)
