from __future__ import annotations

import json

import pytest
import torch

from prefopt.errors import ConfigError
from prefopt.training.output import CONFIG, MetricsLog, check_free, clear, load_state, save_state, write_json


def test_a_new_or_empty_folder_is_free(tmp_path):
    check_free(tmp_path / "new", overwrite=False)
    check_free(tmp_path, overwrite=False)


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / CONFIG).write_text("")
    with pytest.raises(ConfigError, match="not empty.*--overwrite"):
        check_free(tmp_path, overwrite=False)
    check_free(tmp_path, overwrite=True)


def test_overwrite_leaves_alone_what_is_no_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match="holds no run"):
        check_free(tmp_path, overwrite=True)


def test_overwrite_leaves_alone_what_the_run_reads(tmp_path):
    (tmp_path / CONFIG).write_text("")
    check_free(tmp_path, overwrite=True, inputs=["gpt2", str(tmp_path.parent)])
    for source in (tmp_path, tmp_path / "pairs.jsonl", f"{tmp_path}/pairs.jsonl[:3]"):
        with pytest.raises(ConfigError, match="which this run reads"):
            check_free(tmp_path, overwrite=True, inputs=[str(source)])


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        check_free(tmp_path / "file", overwrite=True)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written: Not a directory"):
        clear(tmp_path / "file" / "below")


def test_each_step_is_on_disk_when_it_is_done(tmp_path):
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.write({"step": 1})
        assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1}


def test_json_is_written_whole(tmp_path):
    write_json(tmp_path / "run.json", {"a": "ü"})
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8")) == {"a": "ü"}
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_clearing_removes_what_a_run_writes_and_nothing_else(tmp_path):
    (tmp_path / "last_good").mkdir()
    for name in (
        CONFIG,
        "metrics.jsonl",
        "model-00001-of-00002.safetensors",
        "tokenizer.json",
        "last_good/config.json",
    ):
        (tmp_path / name).write_text("")
    (tmp_path / "notes.txt").write_text("")
    clear(tmp_path)
    # The config stays until the next one replaces it: by it the folder is known as a run's.
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG, "notes.txt"]


def test_a_number_that_is_no_json_is_never_written(tmp_path):
    write_json(tmp_path / "run.json", {"loss": float("nan"), "margins": [1.0, float("inf")]})
    assert json.loads((tmp_path / "run.json").read_text()) == {"loss": None, "margins": [1.0, None]}


def test_the_state_of_a_loss_is_kept_exactly(tmp_path):
    state = {"bco.mean": torch.tensor(1 / 3, dtype=torch.float64), "bco.weight": torch.tensor(7.0)}
    save_state(state, tmp_path)
    found = load_state(tmp_path)
    assert found.keys() == state.keys()
    assert all(found[name].equal(value) and found[name].dtype == value.dtype for name, value in state.items())


def test_a_loss_without_state_leaves_no_file(tmp_path):
    save_state({}, tmp_path)
    assert not any(tmp_path.iterdir())
    assert load_state(tmp_path) == {}
