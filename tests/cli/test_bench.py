from __future__ import annotations

import json

import pytest

from tests.bench.test_runner import PLUGIN, SUITE


@pytest.fixture
def suite(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SUITE)
    (tmp_path / "plugin.py").write_text(PLUGIN)
    return "small.yaml"


def test_tasks_methods_and_suites_are_listed_in_80_columns(prefopt):
    out = prefopt("bench", "list").out
    for name in ("label_noise", "noise = 0.2", "ppo_true_reward", "every loss", "quick", "num_prompts = 8"):
        assert name in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_run_prints_the_leaderboard_writes_the_page_and_says_where_it_is(prefopt, suite, tmp_path):
    out = prefopt("bench", "run", suite, "--processes", "1").out
    assert "suite small: 8 cells, 0 of them on record in runs/bench/small" in out
    for method in ("reference", "sft", "dpo", "kto"):
        assert method in out
    page = tmp_path / "runs" / "bench" / "small" / "report.html"
    assert f"report: {page.relative_to(tmp_path)}" in out
    assert "bradley_terry" in page.read_text()


def test_a_second_run_computes_nothing_and_reports_again(prefopt, suite):
    prefopt("bench", "run", suite, "--processes", "1")
    assert "8 cells, 8 of them on record" in prefopt("bench", "run", suite).out


def test_settings_are_given_on_the_command_line(prefopt, suite, tmp_path):
    prefopt("bench", "run", suite, "methods=[reference]", "held_out_seeds=3", "--output", "here", "--processes", "1")
    records = [json.loads(line) for line in (tmp_path / "here" / "cells.jsonl").read_text().splitlines()]
    assert {(record["method"], record["split"], len(record["seeds"])) for record in records} == {
        ("reference", "validation", 1),
        ("reference", "held_out", 3),
    }


def test_a_plugins_task_is_listed_run_and_reported_and_its_broken_method_is_told(prefopt, suite, tmp_path):
    assert "tiny" in prefopt("bench", "list", "--plugin", "plugin.py").out
    settings = ("tasks={tiny: {}, bradley_terry: {num_rows: 32}}", "methods=[dpo, reference, broken]")
    out = prefopt("bench", "run", suite, *settings, "--plugin", "plugin.py", "--processes", "1").out
    assert "failed: tiny broken held_out: RuntimeError: the mill is broken" in out
    page = (tmp_path / "runs" / "bench" / "small" / "report.html").read_text()
    assert "tiny" in page
    assert "the mill is broken" in page


def test_the_report_is_made_again_from_the_records_by_name_or_folder(prefopt, suite, tmp_path):
    prefopt("bench", "run", suite, "--processes", "1")
    page = tmp_path / "runs" / "bench" / "small" / "report.html"
    page.unlink()
    assert "report: runs/bench/small/report.html" in prefopt("bench", "report", "small").out
    assert page.is_file()
    (page.parent / "suite.yaml").unlink()  # it says only which curves are shown first
    assert "report: " in prefopt("bench", "report", "small").out
    assert "| **dpo**" in prefopt("bench", "report", "runs/bench/small", "--markdown").out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "quik"], "no suite 'quik'; did you mean 'quick'"),
        (["run", "quick", "methods=[dppo]"], "unknown method 'dppo'"),
        (["run", "quick", "tasks={label_noise: {noise: 0.7}}"], "task label_noise: noise = 0.7; it must be a number"),
        (["run", "quick", "trial=3"], "unknown key 'trial'; did you mean 'trials'?"),
        (["run", "quick", "--processes", "0"], "--processes is 0; it must be at least 1, or -1 for one a core"),
        (["report", "nowhere"], "holds no cells.jsonl; `prefopt bench run SUITE` writes one"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(prefopt, suite, arguments, told):
    outcome = prefopt("bench", *arguments)
    assert outcome.code == 1
    assert told in outcome.error
    assert outcome.error.startswith("error: ")
    assert len(outcome.error.splitlines()) == 1
