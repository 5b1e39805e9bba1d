from __future__ import annotations

import json
import resource
import shutil

import pytest
import torch

from prefopt.config import CheckpointsConfig
from prefopt.engine.ranks import ALONE, Ranks
from prefopt.errors import OutputError
from prefopt.training.checkpoints import Checkpoints, latest, read_facts, read_snapshot
from prefopt.training.snapshot import Snapshot


def taken(step=5, **changed):
    weights = {"a": torch.arange(6.0).view(2, 3) * step, "b": torch.tensor([1.0, 3.0], dtype=torch.bfloat16)}
    state = {"optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}}
    return Snapshot(**{"step": step, "sharded": False, "weights": weights, "state": state} | changed)


def checkpoints(folder, **settings):
    return Checkpoints(folder, CheckpointsConfig(**settings), ALONE)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_kept_comes_back_exactly(tmp_path):
    kept = checkpoints(tmp_path).keep(taken(), {"seconds": 1.5})
    back = read_snapshot(kept, ALONE)
    assert back.step == 5
    assert not back.sharded
    for name, value in taken().weights.items():
        assert back.weights[name].dtype == value.dtype
        assert torch.equal(back.weights[name], value)
    assert back.state == taken().state
    assert read_facts(kept)["seconds"] == 1.5


def test_the_last_ones_stay(tmp_path):
    kept = checkpoints(tmp_path, keep_last=2)
    for step in (5, 10, 100, 15):
        kept.keep(taken(step), {})
    assert names(tmp_path) == ["step-00000015", "step-00000100"]
    assert latest(tmp_path).name == "step-00000100"
    everything = checkpoints(tmp_path / "all", keep_last=None)
    for step in range(1, 6):
        everything.keep(taken(step), {})
    assert len(names(tmp_path / "all")) == 5


def test_one_is_due_by_steps_or_by_minutes(tmp_path, monkeypatch):
    assert [step for step in range(1, 8) if checkpoints(tmp_path, every_steps=3).due(step)] == [3, 6]
    assert not any(checkpoints(tmp_path).due(step) for step in range(1, 8))
    now = [0.0]
    monkeypatch.setattr("prefopt.training.checkpoints.time.monotonic", lambda: now[0])
    kept = checkpoints(tmp_path, every_minutes=2)
    now[0] = 119.0
    assert not kept.due(1)
    now[0] = 120.0
    assert kept.due(2)
    kept.keep(taken(2), {})
    assert not kept.due(3)


def test_what_was_being_written_when_the_run_died_is_none(tmp_path):
    kept = checkpoints(tmp_path)
    kept.keep(taken(5), {})
    dead = tmp_path / ".partial-step-00000010"
    shutil.copytree(tmp_path / "step-00000005", dead)
    (dead / "weights.safetensors").write_bytes(b"cut")
    assert latest(tmp_path).name == "step-00000005"
    kept.keep(taken(10), {})
    assert names(tmp_path) == ["step-00000005", "step-00000010"]


@pytest.mark.parametrize("room", [0, 100, 2000])
def test_a_full_disk_leaves_the_last_good_one(tmp_path, room):
    kept = checkpoints(tmp_path)
    kept.keep(taken(5), {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = taken(10, weights={"a": torch.zeros(10_000)}, state={"optimizer": torch.zeros(10_000)})
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))  # what no longer fits fails as on a full disk
    try:
        with pytest.raises(OutputError, match=r"after step 10 cannot be written .* the last good one is step-00000005"):
            kept.keep(large, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == ["step-00000005"]
    assert read_snapshot(latest(tmp_path), ALONE).step == 5


@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt", "checkpoint.json"])
def test_a_damaged_one_is_told(tmp_path, name):
    kept = checkpoints(tmp_path).keep(taken(), {})
    path = kept / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(OutputError, match=r"step-00000005' cannot be read .*; delete it to go on from the one before"):
        read_snapshot(kept, ALONE)


def test_nothing_in_it_is_run_when_it_is_read(tmp_path):
    class Harmful:
        def __reduce__(self):
            return print, ("harm",)

    kept = checkpoints(tmp_path).keep(taken(), {})
    torch.save({"optimizer": Harmful()}, kept / "state.pt")
    with pytest.raises(OutputError, match="cannot be read"):
        read_snapshot(kept, ALONE)


def test_one_of_another_format_is_refused(tmp_path):
    kept = checkpoints(tmp_path).keep(taken(), {})
    facts = json.loads((kept / "checkpoint.json").read_text())
    (kept / "checkpoint.json").write_text(json.dumps(facts | {"format": 99}))
    with pytest.raises(OutputError, match="has format 99, and this version of prefopt reads format 1"):
        read_facts(kept)


def test_shards_go_back_to_as_many_processes(tmp_path):
    kept = checkpoints(tmp_path).keep(taken(sharded=True), {})
    assert names(kept) == ["checkpoint.json", "state-00001-of-00001.pt", "weights-00001-of-00001.safetensors"]
    with pytest.raises(OutputError, match="holds the shards of 1 processes, and this run has 2"):
        read_snapshot(kept, Ranks(0, 2))
