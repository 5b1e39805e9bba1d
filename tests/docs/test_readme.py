"""The README says what is true: its blocks are run, its tree exists, its table is the one the command prints."""

from __future__ import annotations

import doctest
import json
import re
from pathlib import Path

import pytest
import torch

import prefopt
from prefopt.cli.losses import markdown
from prefopt.config import load_config
from prefopt.reference.mirror import default_cache_dir

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(name):
    """The fenced block after `<!-- tested: name -->`."""
    (found,) = re.findall(rf"<!-- tested: {name}.*?-->\n```\w*\n(.*?)```", README, re.DOTALL)
    return found


def test_the_config_is_valid(tmp_path):
    path = tmp_path / "pairs.yaml"
    path.write_text(block("config"))
    assert load_config(path).loss[0].name == "dpo"


def test_the_table_of_losses_is_what_the_command_prints():
    losses = prefopt.load_registry().losses
    ours = [losses[name] for name in sorted(losses) if losses[name].__module__.startswith("prefopt_losses")]
    (found,) = re.findall(r"<!-- tested: losses.*?-->\n\n?(\|.*?)\n\n", README, re.DOTALL)
    assert found == markdown(ours)


def test_the_plugin_is_a_loss_with_a_right_gradient(tmp_path):
    path = tmp_path / "hinge.py"
    path.write_text(block("plugin"))
    loss = prefopt.load_registry([path]).loss("hinge", beta=0.5)
    chosen, rejected = (torch.tensor(values, requires_grad=True) for values in ([-3.0, -9.0], [-5.0, -1.0]))
    batch = prefopt.PreferenceBatch.from_pairs(
        policy_chosen=chosen,
        policy_rejected=rejected,
        reference_chosen=torch.zeros(2),
        reference_rejected=torch.zeros(2),
        chosen_lengths=torch.ones(2),
        rejected_lengths=torch.ones(2),
    )
    found = torch.autograd.grad(loss(batch).losses.sum(), (chosen, rejected))
    closed = loss.gradient(batch)
    torch.testing.assert_close(found, (closed.policy_chosen, closed.policy_rejected))


def test_the_python_examples_run():
    results = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert results.attempted > 0
    assert results.failed == 0


def test_the_store_is_filled_from_python(tmp_path, monkeypatch, model_folder, pair_rows):
    monkeypatch.chdir(tmp_path)
    config = {"model": str(model_folder), "data": {"train": "x", "max_length": 64}, "loss": "dpo", "output_dir": "out"}
    (tmp_path / "pairs.yaml").write_text(json.dumps(config))
    exec(block("precompute"), {"dataset": pair_rows})
    assert list((tmp_path / "cache").rglob("*.arrow")) or list(Path(default_cache_dir()).rglob("*.arrow"))


def test_the_tree_exists():
    folder = ROOT
    for line in block("tree").splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = ROOT / name
            assert folder.is_dir(), name
        else:
            assert (folder / name).exists(), f"{folder.name}/{name}"


def test_every_link_into_the_repository_exists():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("command", re.findall(r"^prefopt (\w+)", README, re.MULTILINE))
def test_every_command_exists(command):
    from prefopt.cli.app import app

    commands = {registered.callback.__name__ for registered in app.registered_commands}
    assert command in commands | {group.name for group in app.registered_groups}
