from __future__ import annotations

import json

import pytest

from prefopt.testing import CHECKS

BAD = """
import prefopt

class Bad(prefopt.PairLoss):
    name = "bad"
    needs = prefopt.Needs(rows={"pairs"})
    expected_failures = {"docstring": "it has none", "example": "it has none"}

    def values(self, batch):
        return batch.rejected.policy - batch.chosen.policy

    def gradient(self, batch):
        return prefopt.Gradient(policy_chosen=-batch.weights, policy_rejected=-batch.weights)

    def reward(self, completions):
        return completions.policy

@prefopt.hookimpl
def prefopt_register_losses():
    return [Bad]
"""


@pytest.fixture
def bad(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(BAD)
    return path


def test_one_loss_lists_every_check(prefopt):
    outcome = prefopt("check", "sft")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(CHECKS)
    assert "coupling             not applicable   it is not declared coupled" in lines
    assert max(map(len, lines)) <= 80


def test_a_broken_promise_is_shown_with_a_program_and_exit_code_1(prefopt, bad):
    outcome = prefopt("check", "bad", "--plugin", bad)
    assert outcome.code == 1
    assert "closed_form          failed" in outcome.out
    assert "docstring            expected failure it has none" in outcome.out
    message, _, snippet = outcome.out.partition("bad fails closed_form: ")[2].partition("\n\n")
    assert " ".join(message.split()) == "policy_rejected[0]: closed form -1, autograd 1"
    assert f'loss = prefopt.load_registry(["{bad}"]).losses["bad"]()' in snippet


def test_several_losses_have_a_line_each(prefopt, bad):
    outcome = prefopt("check", "sft", "bad", "--plugin", bad, "--check", "closed_form", "--check", "terms")
    assert outcome.code == 1
    header, sft, worse, *_ = outcome.out.splitlines()
    assert header.split()[:3] == ["loss", "passed", "failed"]
    assert sft.split()[:5] == ["sft", "2", "0", "0", "0"]
    assert worse.split()[:5] == ["bad", "1", "1", "0", "0"]
    assert "bad fails closed_form" in outcome.out
    assert max(map(len, (header, sft, worse))) <= 80


def test_json_has_an_entry_for_each_loss_and_check(prefopt, bad):
    outcome = prefopt("check", "bad", "--plugin", bad, "--json", "--check", "closed_form", "--check", "docstring")
    assert outcome.code == 1
    first, second = json.loads(outcome.out)
    assert (first["loss"], first["check"], first["outcome"]) == ("bad", "closed_form", "failed")
    assert "recheck" in first["snippet"]
    assert second["outcome"] == "expected failure"


def test_unknown_names_suggest_the_nearest(prefopt):
    assert "did you mean 'simpo'?" in prefopt("check", "sinpo").error
    assert "did you mean 'row_order'?" in prefopt("check", "dpo", "--check", "row_orders").error


def test_losses_are_named_or_all(prefopt):
    assert "name the losses to check, or give --all" in prefopt("check").error
    assert "name the losses to check, or give --all" in prefopt("check", "dpo", "--all").error


def test_all_takes_every_loss(prefopt):
    outcome = prefopt("check", "--all", "--check", "ranges")
    names = [loss["name"] for loss in json.loads(prefopt("losses", "--json").out)]
    assert [line.split()[0] for line in outcome.out.splitlines()[1 : len(names) + 1]] == names
    assert outcome.code == 0
