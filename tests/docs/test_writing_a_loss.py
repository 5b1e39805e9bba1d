"""docs/writing-a-loss.md says what is true: its losses pass the checks, its commands run, its failure is as shown."""

from __future__ import annotations

import dataclasses
import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

import prefopt
from prefopt.config import load_config
from prefopt.objective import build_loss
from prefopt.testing import CHECKS, CheckFailed, check_loss

PAGE = Path(__file__).resolve().parents[2] / "docs" / "writing-a-loss.md"
TEXT = PAGE.read_text(encoding="utf-8")
IMPORTS = """\
import prefopt
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


"""
HOOK = """

@prefopt.hookimpl
def prefopt_register_losses():
    return [{}]
"""
UNDOCUMENTED = {"docstring", "example"}  # what the page leaves out


def blocks(name):
    """The fenced blocks after `<!-- tested: name -->`."""
    return re.findall(rf"<!-- tested: {name} -->\n```\w*\n(.*?)```", TEXT, re.DOTALL)


def class_name(code):
    return re.findall(r"^class (\w+)\(", code, re.MULTILINE)[0]


(WHOLE,) = blocks("whole file")
PIECES = {class_name(code): code for code in blocks("loss")}
FILES = {class_name(WHOLE): WHOLE} | {name: IMPORTS + code + HOOK.format(name) for name, code in PIECES.items()}


def run(command, folder):
    done = subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def load(tmp_path):
    """The loss of a plugin file, and the registry that knows it."""

    def load(source):
        path = tmp_path / "mine.py"
        path.write_text(source)
        registry = prefopt.load_registry([path])
        (plugin,) = (plugin for plugin in registry.plugins if plugin.name == str(path))
        return registry.losses[plugin.losses[0]], registry

    return load


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("name", FILES)
def test_every_loss_keeps_every_promise_but_those_of_documentation(load, name):
    results = check_loss(*load(FILES[name]), checks=[check for check in CHECKS if check not in UNDOCUMENTED])
    assert [f"{result.check}: {result.message}" for result in results if result.outcome == "failed"] == []


@pytest.mark.parametrize(
    ("name", "old", "new", "check"),
    [
        ("Anchored", "- weight, policy_rejected", "+ weight, policy_rejected", "closed_form"),
        ("Centred", ", coupled=True", "", "row_independence"),
        ("Drifting", ").detach()", ")", "closed_form"),
        ("Flipped", "batch.draws.uniform([1] * len(batch))", "torch.rand(len(batch))", "determinism"),
        ("Fading", "-chosen.spread(weight) * self._shares(chosen)", "-chosen.spread(weight)", "closed_form"),
        ("BestOnly", "lengths == 0, -torch.inf).log", "lengths == 0, 0.0).log", "absent_slots"),
    ],
)
def test_a_fault_in_a_loss_of_the_page_is_found(load, name, old, new, check):
    assert old in FILES[name]
    loss, registry = load(FILES[name].replace(old, new))
    (result,) = check_loss(loss, registry, checks=[check])
    assert result.outcome == "failed", result


def test_the_failure_shown_is_what_a_wrong_sign_gives(load):
    (shown,) = blocks("failure")
    loss, registry = load(WHOLE.replace("policy_chosen=-weight", "policy_chosen=weight"))
    with pytest.raises(CheckFailed) as caught:
        CHECKS["closed_form"](loss, registry)
    sentence, _, snippet = str(caught.value).partition("\n\n")
    assert sentence == shown.strip()
    with pytest.raises(AssertionError, match="closed form 0.0622"):
        exec(snippet, {})


def test_the_attributes_shown_are_ones_that_a_loss_may_have(load):
    for line in blocks("attribute"):
        loss, registry = load(WHOLE.replace("    beta:", f"    {line}    beta:", 1))
        assert set(loss.expected_failures) <= set(CHECKS)
        if loss.relations:
            (result,) = check_loss(loss, registry, checks=["relations"])
            assert result.outcome == "passed", result
        else:
            assert loss.expected_failures


def test_the_commands_start_a_package_that_passes(tmp_path):
    """That its pytest passes once installed, tests/scaffold shows."""
    new, *then = blocks("start")[0].splitlines()
    told = run(new, tmp_path)
    assert [line.removeprefix("next").strip() for line in told.splitlines()[-2:]] == then
    (check,) = blocks("check")
    run(f"{check.strip()} --plugin prefopt_wide_margin.py", next(tmp_path.glob("prefopt-*")))


def test_the_config_names_the_loss(tmp_path, load):
    path = tmp_path / "run.yaml"
    path.write_text(blocks("config")[0])
    loss, registry = load(WHOLE)
    assert build_loss(load_config(path), registry) == loss(gamma=1.0)


def test_the_batch_by_hand_runs():
    results = doctest.testfile(str(PAGE), module_relative=False)
    assert results.attempted > 0
    assert results.failed == 0


def test_no_block_is_left_untested():
    tested = re.findall(r"<!-- tested: [\w ]+ -->\n```", TEXT)
    examples = re.findall(r"```python\n>>> ", TEXT)
    assert 2 * (len(tested) + len(examples)) == len(re.findall(r"^```", TEXT, re.MULTILINE))


def test_what_the_page_says_a_batch_has_is_there():
    fields = {field.name for field in dataclasses.fields(prefopt.PreferenceBatch)}
    has = re.findall(r"`batch\.(\w+)`", TEXT)
    assert len(has) > 5
    assert all(hasattr(prefopt.PreferenceBatch, name) or name in fields for name in has), has
