from __future__ import annotations

import json


def test_every_plugin_is_listed_with_what_it_brings(prefopt):
    found = {plugin["name"]: plugin for plugin in json.loads(prefopt("plugins", "--json").out)}
    assert found["prefopt:dpo"]["losses"] == ["dpo"]
    assert found["prefopt:dpo"]["error"] is None
    assert "prefopt:kto" in prefopt("plugins").out


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
