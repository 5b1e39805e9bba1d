from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HINGE = ROOT / "plugins" / "example" / "prefopt_example.py"
PAGES = ROOT / "docs" / "losses"


def test_every_loss_is_listed(prefopt):
    outcome = prefopt("losses")
    for name in ("dpo", "ipo", "kto", "orpo", "sft", "simpo"):
        assert name in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 80


def test_one_loss_shows_what_it_documents(prefopt):
    out = prefopt("losses", "simpo").out
    for words in ("beta = 2.0  (> 0)", "gamma = 0.5  (>= 0)", "2405.14734", "Differs"):
        assert words in out


def test_json_holds_needs_fields_and_plugin(prefopt):
    found = {loss["name"]: loss for loss in json.loads(prefopt("losses", "--json").out)}
    assert found["kto"]["needs"]["mismatched"] is True
    assert found["dpo"]["hyperparameters"] == [{"name": "beta", "default": 0.1, "range": "> 0", "tune": [0.01, 1.0]}]
    assert found["dpo"]["closed_form"] is True
    assert json.loads(prefopt("losses", "dpo", "--json").out)["plugin"] == "prefopt:dpo"


def test_a_plugin_file_joins_the_list(prefopt):
    assert "hinge_example" in prefopt("losses", "--plugin", HINGE).out


def test_an_unknown_name_suggests_the_nearest(prefopt):
    assert "did you mean 'simpo'?" in prefopt("losses", "sinpo").error


def test_two_formats_at_once_are_refused(prefopt, tmp_path):
    assert "exclude each other" in prefopt("losses", "--json", "--markdown").error
    assert "exclude each other" in prefopt("losses", "--json", "--pages", tmp_path).error
    assert "`prefopt losses dpo --markdown` prints one" in prefopt("losses", "dpo", "--pages", tmp_path).error


def test_relations_to_other_losses_are_shown(prefopt):
    assert "equals  dpo, where label_smoothing = 0.0" in prefopt("losses", "cdpo").out
    assert "\nequals " not in prefopt("losses", "dpo").out


def test_markdown_of_one_loss_is_its_page(prefopt):
    assert prefopt("losses", "kto", "--markdown").out == (PAGES / "kto.md").read_text(encoding="utf-8")


def test_markdown_of_all_links_each_from_one_row(prefopt):
    rows = prefopt("losses", "--markdown").out.splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == [
        "| pairs and a reference",
        "| pairs alone",
        "| labels",
        "| rankings",
        "| demonstrations",
    ]
    linked = [name for row in rows for name in re.findall(r"\[`(\w+)`\]\(docs/losses/\1\.md\)", row)]
    assert sorted(linked) == sorted(loss["name"] for loss in json.loads(prefopt("losses", "--json").out))
    assert "`kto`" in rows[2]
    assert "`sft`" in rows[4]


def test_pages_are_written_into_a_new_folder(prefopt, tmp_path):
    folder = tmp_path / "docs" / "losses"
    assert prefopt("losses", "--pages", folder).code == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in PAGES.iterdir()
    }
    (tmp_path / "file").write_text("")
    assert "cannot write the pages to" in prefopt("losses", "--pages", tmp_path / "file").error
