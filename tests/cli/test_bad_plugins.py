"""A bad plugin is one clear message, and the rest keeps working: installed or passed as a file, in every command."""

from __future__ import annotations

import json
import sys

import pytest

GOOD = '''\
import prefopt


class Cool(prefopt.PairLoss):
    """The gap."""

    name = "cool"
    beta: float = prefopt.field(0.1, gt=0)

    def values(self, batch):
        return self.beta * (batch.rejected.policy - batch.chosen.policy)

    def reward(self, completions):
        return completions.policy


@prefopt.hookimpl
def prefopt_register_losses():
    return [Cool]
'''
TASK = '''\
import prefopt


class Windy(prefopt.Task):
    """A task that is its seed."""

    name = "windy"
    knobs = {"noise": prefopt.Knob(0.1, "the noise", ge=0, lt=0.5)}

    def build(self, seed, noise):
        return seed


@prefopt.hookimpl
def prefopt_register_tasks():
    return [Windy]
'''
METHOD = '''\
import prefopt


class Still(prefopt.Method):
    """The reference."""

    name = "cool"

    def policies(self, trials, worlds, budget):
        return worlds.logps.expand(len(trials), *worlds.logps.shape).unsqueeze(2)


@prefopt.hookimpl
def prefopt_register_methods():
    return [Still]
'''
SCALAR = GOOD.replace("batch.chosen.policy)", "batch.chosen.policy).mean()")
BAD = {
    "raises on import": ("1 / 0\n" + GOOD, "ZeroDivisionError: division by zero"),
    "misspelt hook": (
        GOOD.replace("register_losses", "register_loses"),
        "unknown hook 'prefopt_register_loses'; did you mean 'prefopt_register_losses'?",
    ),
    "no range": (GOOD.replace("prefopt.field(0.1, gt=0)", "0.1"), "hyper-parameter 'beta' has no range"),
    "optional without a range": (
        GOOD.replace("float = prefopt.field(0.1, gt=0)", "float | None = None"),
        "hyper-parameter 'beta' has no range",
    ),
    "no identifier": (GOOD.replace('"cool"', '"cool-er"'), "name 'cool-er' must be one lowercase word"),
    "misspelt hook beside a good one": (
        GOOD + TASK.replace("register_tasks", "register_task"),
        "unknown hook 'prefopt_register_task'; did you mean 'prefopt_register_tasks'?",
    ),
    "bad task beside a good loss": (
        GOOD + TASK.replace("0.1,", "0.7,"),
        "knob 'noise' has the default 0.7; it must be a number at least 0 and less than 0.5",
    ),
}
bad_plugins = pytest.mark.parametrize(("text", "reason"), BAD.values(), ids=BAD)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Makes a module a plugin of an installed distribution `prefopt-NAME`."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    installed = []

    def install(name, text):
        info = folder / f"prefopt_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: prefopt-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[prefopt]\n{name} = plugin_of_{name}\n")
        (folder / f"plugin_of_{name}.py").write_text(text)
        installed.append(f"plugin_of_{name}")

    yield install
    for module in installed:
        sys.modules.pop(module, None)


@pytest.fixture
def pairs(write_rows, pair_rows):
    return write_rows(pair_rows)


def flat(text):
    """Text that was laid out in columns, as words."""
    return " ".join(text.split())


@bad_plugins
def test_an_installed_one_is_listed_with_its_reason_beside_all_that_work(prefopt, install, text, reason):
    install("bad", text)
    listed = prefopt("plugins", "--json")
    (bad,) = [plugin for plugin in json.loads(listed.out) if plugin["error"]]
    assert bad["name"] == "prefopt-bad:bad"
    assert reason in bad["error"]
    assert "failed to load: " in flat(prefopt("plugins").out)
    losses = prefopt("losses").out
    assert "failed to load: prefopt-bad:bad: " in losses
    assert reason in losses
    assert "\ndpo " in losses
    assert prefopt("losses", "dpo").code == 0


@bad_plugins
def test_an_installed_one_is_the_reason_why_its_loss_is_unknown(prefopt, install, write_config, pairs, text, reason):
    install("bad", text)
    error = prefopt("train", write_config(pairs), "loss=cool").error
    assert "unknown loss 'cool'" in error
    assert "failed to load: prefopt-bad:bad" in error
    assert reason in error


def test_training_with_another_loss_goes_on(prefopt, install, write_config, pairs):
    for number, (text, _) in enumerate(BAD.values()):
        install(f"bad{number}", text)
    outcome = prefopt("train", write_config(pairs), "training.max_steps=1")
    assert outcome.code == 0, outcome.err


@bad_plugins
@pytest.mark.parametrize("command", ["plugins", "losses", "train"])
def test_a_file_is_refused_at_once(prefopt, write_config, pairs, tmp_path, command, text, reason):
    file = tmp_path / "mine.py"
    file.write_text(text)
    config = [write_config(pairs)] if command == "train" else []
    error = prefopt(command, *config, "--plugin", file).error
    assert "mine.py" in error
    assert reason in error


def test_two_installed_with_one_name_lose_it_and_keep_the_rest(prefopt, install, write_config, pairs):
    install("one", GOOD)
    install("two", GOOD + "\n# another distribution\n")
    sentence = "two plugins bring a loss named 'cool': prefopt-one:one and prefopt-two:two; rename or remove one"
    assert f"left out: {sentence}" in prefopt("plugins").out
    assert f"left out: {sentence}" in prefopt("losses").out
    contested = {plugin["name"]: plugin["contested"] for plugin in json.loads(prefopt("plugins", "--json").out)}
    assert (contested["prefopt-one:one"], contested["prefopt-two:two"]) == (["cool"], ["cool"])
    assert contested["prefopt:dpo"] == []
    assert sentence in prefopt("losses", "cool").error
    assert sentence in prefopt("train", write_config(pairs), "loss=cool").error
    outcome = prefopt("train", write_config(pairs), "training.max_steps=1")
    assert outcome.code == 0, outcome.err


def test_a_method_and_a_loss_with_one_name_lose_it_both(prefopt, install, write_config, pairs):
    install("one", GOOD)
    install("two", METHOD)
    sentence = (
        "two plugins bring a loss or method named 'cool': prefopt-one:one and prefopt-two:two; rename or remove one"
    )
    assert f"left out: {sentence}" in prefopt("plugins").out
    assert f"left out: {sentence}" in prefopt("losses").out
    contested = {plugin["name"]: plugin["contested"] for plugin in json.loads(prefopt("plugins", "--json").out)}
    assert (contested["prefopt-one:one"], contested["prefopt-two:two"]) == (["cool"], ["cool"])
    assert sentence in prefopt("train", write_config(pairs), "loss=cool").error


def test_two_installed_tasks_with_one_name_lose_it_and_no_loss_does(prefopt, install):
    install("one", TASK.replace('"windy"', '"cool"'))
    install("two", TASK.replace('"windy"', '"cool"') + "\n# another distribution\n")
    install("three", GOOD)
    sentence = "two plugins bring a task named 'cool': prefopt-one:one and prefopt-two:two; rename or remove one"
    assert f"left out: {sentence}" in prefopt("plugins").out
    contested = {plugin["name"]: plugin["contested"] for plugin in json.loads(prefopt("plugins", "--json").out)}
    assert [contested[f"prefopt-{name}:{name}"] for name in ("one", "two", "three")] == [["cool"], ["cool"], []]
    assert prefopt("losses", "cool").code == 0


@pytest.mark.parametrize("command", ["plugins", "losses", "train"])
def test_a_file_with_an_installed_name_is_refused_at_once(prefopt, install, write_config, pairs, tmp_path, command):
    install("one", GOOD)
    file = tmp_path / "mine.py"
    file.write_text(GOOD)
    config = [write_config(pairs)] if command == "train" else []
    error = prefopt(command, *config, "--plugin", file).error
    assert "two plugins bring a loss named 'cool': prefopt-one:one and " in error
    assert "mine.py" in error


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (SCALAR, "loss cool returned losses of shape [] for a batch of"),
        (
            SCALAR.replace(".mean()", ".mean().item()"),
            "loss cool returned a float; `values` returns a tensor of",
        ),
    ],
    ids=["tensor", "number"],
)
@pytest.mark.parametrize("installed", [True, False])
def test_a_scalar_is_told_in_training(prefopt, install, write_config, pairs, tmp_path, text, reason, installed):
    file = tmp_path / "mine.py"
    file.write_text(text)
    if installed:
        install("scalar", text)
    options = [] if installed else ["--plugin", file]
    assert "\ncool " in prefopt("losses", *options).out
    assert reason in prefopt("train", write_config(pairs), "loss=cool", *options).error
