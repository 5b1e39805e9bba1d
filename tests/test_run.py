from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from transformers import AutoTokenizer

import prefopt
from prefopt.config import load_config, parse_config
from prefopt.errors import ConfigError
from prefopt.objective import build_loss
from prefopt.run import run
from prefopt.watcher import Watcher
from tests.models import tiny_model

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


def settings(model_folder, tmp_path, **changed):
    values = {
        "model": str(model_folder),
        "data": {"train": "in memory", "evaluation": 3, "max_length": 64},
        "loss": "kto",
        "training": {"batch_size": 3, "learning_rate": 1e-2, "optimizer": "sgd"},
        "output_dir": str(tmp_path / "out"),
        **changed,
    }
    return parse_config(values)


@pytest.mark.parametrize("other", [False, True])
def test_a_cached_reference_trains_as_a_live_one(model_folder, pair_rows, tmp_path, other):
    """KTO reads mismatched completions too; the reference is the initial policy or another model."""
    reference = {}
    if other:
        model = tiny_model("llama", vocab_size=AutoTokenizer.from_pretrained(model_folder).vocab_size + 8, seed=3)
        model.save_pretrained(tmp_path / "other")
        AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path / "other")
        reference = {"model": str(tmp_path / "other")}
    found = []
    for mode in ("live", "cached"):
        config = settings(model_folder, tmp_path, reference={"mode": mode, **reference})
        run(config, prefopt.get_loss("kto"), train=pair_rows, overwrite=True)
        lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
        found.append([json.loads(line)["loss"] for line in lines])
    assert found[1] == pytest.approx(found[0], rel=1e-5)


class Listener(Watcher):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def test_a_cached_reference_says_what_it_scored(model_folder, pair_rows, tmp_path):
    listener = Listener()
    config = settings(model_folder, tmp_path, reference={"mode": "cached"}, loss="dpo")
    run(config, prefopt.get_loss("dpo"), train=pair_rows, watcher=listener)
    (line,) = [line for line in listener.lines if line.startswith("reference: ")]
    assert "9 rows scored, 0 read" in line  # held-out rows too
    assert "no reference model stays loaded" in line


def test_held_out_rows_are_held_against_the_reference_a_run_begins_with(model_folder, pair_rows, tmp_path):
    """Right after a hard update policy and reference are one, and every margin between them would be 0."""
    listener = Listener()
    config = settings(model_folder, tmp_path, loss="dpo", reference={"update_steps": 1})
    record = run(config, prefopt.get_loss("dpo"), train=pair_rows, watcher=listener)
    assert abs(record["evaluation"]["after"]["reward_margin"]) > 1e-3
    assert any("held against the one the run begins with" in line for line in listener.lines)


def test_updates_that_never_come_are_told(model_folder, pair_rows, tmp_path):
    for loss, words in (("dpo", "the reference stays as it is"), ("simpo", "reference.update_steps has no effect")):
        listener = Listener()
        config = settings(model_folder, tmp_path, loss=loss, reference={"update_steps": 99})
        run(config, prefopt.get_loss(loss), train=pair_rows, overwrite=True, watcher=listener)
        assert any(words in line for line in listener.lines)


def test_processes_that_did_not_find_each_other_are_refused(model_folder, pair_rows, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="started with 2 processes, but 1 share a process group"):
        run(settings(model_folder, tmp_path), prefopt.get_loss("kto"), train=pair_rows)
    assert not (tmp_path / "out").exists()
