"""docs/tracking.md names every key of metrics.jsonl."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import prefopt
from prefopt.config import parse_config
from prefopt.engine.accumulation import accumulate
from prefopt.engine.logps import Scorer
from prefopt.run import run
from prefopt.training.measures import OWN_METRICS, step_measures
from tests.engine.rows import kind_of, random_rows
from tests.models import tiny_model

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "tracking.md").read_text(encoding="utf-8")
ROWS = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
DOCUMENTED = {name for cell in ROWS for name in re.findall(r"`([a-z_]+)`", cell)}
REGISTRY = prefopt.load_registry()


def test_every_name_of_ours_stands_in_the_table():
    assert OWN_METRICS - DOCUMENTED == set()


@pytest.mark.parametrize("name", sorted(REGISTRY.losses))
def test_what_a_loss_measures_stands_in_a_table(name):
    loss = REGISTRY.loss(name)
    scorer = Scorer(tiny_model("llama"))
    reference = scorer if loss.needs.reference else None
    found = step_measures(
        loss, accumulate(scorer, reference, loss, random_rows(kind_of(loss), 3), tokens_per_microbatch=999)
    )
    assert set(found) - DOCUMENTED == set()
    own = set(found) - OWN_METRICS
    lines = [line for line in PAGE.splitlines() if line.startswith("| `") and f"`{name}`" in line.split("|")[2]]
    told = {key for line in lines for key in re.findall(r"`([a-z_]+)`", line.split("|")[1])}
    assert own - {"reward"} == told


def test_every_key_of_a_real_run_stands_in_the_table(tmp_path, model_folder, write_rows, pair_rows):
    rows = str(write_rows(pair_rows))
    config = parse_config(
        {
            "model": str(model_folder),
            "data": {"train": rows, "evaluation": rows, "max_length": 64},
            "loss": "dpo",
            "training": {"batch_size": 4, "max_steps": 2},
            "evaluation": {"every_steps": 1},
            "output_dir": str(tmp_path / "out"),
        }
    )
    run(config, prefopt.get_loss("dpo"))
    for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines():
        metrics = json.loads(line)
        assert set(metrics) - DOCUMENTED == set()
        for key in metrics.get("evaluation", {}):
            assert f"`evaluation/{key}`" in PAGE, key
