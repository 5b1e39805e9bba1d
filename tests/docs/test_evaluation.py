"""What docs/evaluation.md shows works."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

import prefopt
from prefopt.config import load_config, parse_config
from prefopt.config.evaluation import JUDGES, EvaluationConfig
from prefopt.evaluation.judges.questions import QUESTIONS
from prefopt.run import run

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def block(name):
    (found,) = re.findall(rf"<!-- tested: {name} -->\n```\w+\n(.*?)```", TEXT, re.DOTALL)
    return found


@pytest.mark.parametrize("name", ["answers", "endpoint", "judges"])
def test_every_config_on_the_page_is_valid(name):
    for values in yaml.safe_load_all(block(name)):
        base = {"model": "m", "data": {"train": "t", "evaluation": 3}, "loss": "dpo", "output_dir": "o"}
        assert parse_config({**base, **values}).evaluation is not None


def test_the_values_shown_are_the_defaults():
    shown = yaml.safe_load(block("answers"))["evaluation"]
    defaults = EvaluationConfig()
    assert shown == {name: getattr(defaults, name) for name in shown}


def test_every_judge_prompt_and_setting_is_on_the_page():
    for name in (*JUDGES, *QUESTIONS):
        assert f"`{name}`" in TEXT
    told = set(EvaluationConfig.model_fields) - {"every_steps", "samples"}
    assert all(name in TEXT for name in told)


def test_the_python_on_the_page_runs(model_folder, write_rows, pair_rows, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    values = {
        "model": str(model_folder),
        "data": {"train": str(write_rows(pair_rows)), "evaluation": 3, "max_length": 64},
        "loss": "dpo",
        "training": {"batch_size": 3, "max_steps": 1},
        "output_dir": str(tmp_path / "out"),
    }
    Path("pairs.yaml").write_text(yaml.safe_dump(values))
    run(load_config("pairs.yaml"), prefopt.get_loss("dpo"))
    names = {}
    exec(block("python"), names)
    assert names["found"]["win_rate"]["rate"] is not None
    assert str(names["found"]["win_rate"]["rate"]) in capsys.readouterr().out
    names = {"path": tmp_path / "out" / "judgements.jsonl", "open": _opened}
    exec(block("judgements"), names)
    assert len(names["judgements"]) == 3
    assert len(names["lost"]) == names["judgements"].__len__() - sum(
        own["verdict"] != "other" for own in names["judgements"]
    )
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    rows = re.findall(r"^\| `([\w.]+)` \|", TEXT.partition("| in evaluation.json")[2].partition("Means have")[0], re.M)
    assert len(rows) > 6
    for name in rows:
        value = record
        for key in name.split("."):
            value = value[key]


def _opened(path, encoding):
    return path.read_text(encoding=encoding).splitlines()
