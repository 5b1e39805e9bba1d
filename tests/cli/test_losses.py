from __future__ import annotations

import json
from pathlib import Path

HINGE = Path(__file__).resolve().parents[2] / "plugins" / "example" / "prefopt_example.py"


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


def test_two_formats_at_once_are_refused(prefopt):
    assert "exclude each other" in prefopt("losses", "--json", "--markdown").error
