from __future__ import annotations

from pathlib import Path

import datasets
import pytest

import prefopt
from prefopt.config import load_config, parse_config
from prefopt.objective import build_loss
from prefopt.run import run

ROOT = Path(__file__).resolve().parents[1]


def test_a_dataset_in_memory_is_trained_on(model_folder, pair_rows, tmp_path):
    values = {
        "model": str(model_folder),
        "data": {"train": "in memory", "evaluation": 3, "max_length": 64},
        "loss": "dpo",
        "output_dir": str(tmp_path / "out"),
    }
    for source in (datasets.Dataset.from_list(pair_rows), pair_rows):
        record = run(parse_config(values), prefopt.get_loss("dpo"), train=source, overwrite=True)
        assert record["data"]["train"]["num_kept"] == 9
        assert len(record["data"]["held_out"]) == 3


@pytest.mark.slow
def test_dpo_reaches_0_68_on_held_out_blimp_within_two_epochs(shared, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config("docs/examples/blimp.yaml", [f"output_dir={tmp_path / 'out'}"])
    assert config.training.epochs == 2
    record = run(config, build_loss(config, prefopt.load_registry()))
    assert record["evaluation"]["before"]["reward_accuracy"] == 0.5
    assert record["evaluation"]["after"]["reward_accuracy"] >= 0.68
