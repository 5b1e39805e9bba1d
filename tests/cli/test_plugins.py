from __future__ import annotations

import json

ALL_THREE = '''\
import prefopt


class Gap(prefopt.PairLoss):
    """The gap."""

    name = "gap"

    def values(self, batch):
        return batch.rejected.policy - batch.chosen.policy

    def reward(self, completions):
        return completions.policy


class Wide(Gap):
    """The same gap."""

    name = "wide"


class Still(prefopt.Method):
    """The reference."""

    name = "still"

    def policies(self, trials, worlds, budget):
        return worlds.logps.expand(len(trials), *worlds.logps.shape).unsqueeze(2)


class Windy(prefopt.Task):
    """A task that is its seed."""

    name = "windy"

    def build(self, seed):
        return seed


@prefopt.hookimpl
def prefopt_register_losses():
    return [Gap, Wide]


@prefopt.hookimpl
def prefopt_register_methods():
    return [Still]


@prefopt.hookimpl
def prefopt_register_tasks():
    return [Windy]
'''


def test_every_plugin_is_listed_with_what_it_brings(prefopt):
    found = {plugin["name"]: plugin for plugin in json.loads(prefopt("plugins", "--json").out)}
    assert found["prefopt:dpo"]["losses"] == ["dpo"]
    assert found["prefopt:dpo"]["error"] is None
    assert ["prefopt:kto", "loss", "kto"] in [
        [word for word in line.split() if word[0].isalpha()] for line in prefopt("plugins").out.splitlines()
    ]


def test_what_a_plugin_brings_is_listed_kind_by_kind(prefopt, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(ALL_THREE)
    monkeypatch.chdir(tmp_path)
    *_, mine = json.loads(prefopt("plugins", "--plugin", "mine.py", "--json").out)
    assert (mine["losses"], mine["methods"], mine["tasks"]) == (["gap", "wide"], ["still"], ["windy"])
    _, _, row = prefopt("plugins", "--plugin", "mine.py").out.partition("\nmine.py ")
    assert " ".join(row.split()[1:]) == "losses gap, wide; method still; task windy"


def test_the_table_fits_80_columns(prefopt, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(ALL_THREE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for options in ([], ["--plugin", "mine.py"]):
        table = prefopt("plugins", *options).out
        assert max(map(len, table.splitlines())) <= 80
        assert "prefopt:unlikelihood_token " in table, "a name is broken over two lines"


def test_a_plugin_that_fails_to_load_says_why_and_stops_nobody(prefopt, tmp_path, monkeypatch):
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[prefopt]\nbroken = broken_plugin\n")
    (tmp_path / "broken_plugin.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "ModuleNotFoundError: No module named 'a_module_that_is_not_there'" in prefopt("plugins", "--json").out
    assert "broken:broken" in prefopt("losses").out
    assert "failed to load: broken:broken" in prefopt("losses", "dpoo").error


def test_a_file_that_raises_is_one_sentence(prefopt, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import prefopt\n1 / 0\n")
    assert "line 2 failed to load: ZeroDivisionError" in prefopt("plugins", "--plugin", file).error
