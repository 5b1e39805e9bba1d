from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import yaml

from prefopt.reference.store import Store
from tests.reference.stores import flip_last_value


@pytest.fixture
def pairs(write_rows, pair_rows):
    return write_rows(pair_rows)


@pytest.fixture
def config(write_config, pairs, tmp_path):
    return write_config(pairs, reference={"mode": "cached", "cache_dir": str(tmp_path / "store")})


def test_precompute_then_train(prefopt, config, tmp_path):
    outcome = prefopt("precompute", config)
    assert outcome.code == 0, outcome.err
    assert "9 of 9 rows kept, read as pairs" in outcome.err
    assert "scored  9 rows (18 completions) in" in outcome.err
    assert "0 rows were there already" in outcome.err
    assert "scoring " in outcome.err
    assert f"into {tmp_path / 'store'}" in outcome.err
    again = prefopt("precompute", config)
    assert "scored  0 rows (0 completions)" in again.err
    assert "9 rows were there already" in again.err
    trained = prefopt("train", config, "reference.strict=true")
    assert trained.code == 0, trained.err
    assert "0 rows scored, 9 read from" in trained.err
    record = json.loads((tmp_path / "out" / "run.json").read_text())["reference"]
    assert (record["rows_scored"], record["rows_reused"], record["model_loaded"]) == (0, 9, False)


def test_a_config_that_would_not_read_the_store_is_told(prefopt, write_config, pairs):
    outcome = prefopt("precompute", write_config(pairs))
    assert outcome.code == 0, outcome.err
    assert "reference.mode is 'live': to read the store, train with reference.mode=cached" in outcome.err


def test_a_damaged_store_is_no_success(prefopt, config, tmp_path):
    prefopt("precompute", config)
    (path,) = (tmp_path / "store").rglob("*.arrow")
    flip_last_value(path)
    assert "is damaged: row" in prefopt("precompute", config).error


def test_sigterm_stops_as_ctrl_c_does(prefopt, config, monkeypatch):
    from prefopt.reference.loading import ReferenceModel

    monkeypatch.setattr(ReferenceModel, "__call__", lambda self, rows: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    outcome = prefopt("precompute", config)
    assert outcome.code == 130
    assert "what was scored is kept" in outcome.err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("loss=simpo", "loss simpo reads no reference, so there is nothing to score"),
        ("loss=dpoo", "did you mean 'dpo'?"),
        ("reference.cache_dir=nosuch://x", "reference.cache_dir 'nosuch://x' cannot be opened"),
        ("model.adapter={r: 4, lora_alfa: 3}", "did you mean 'lora_alpha'?"),
        ("model.adapter={path: /nowhere/at/all}", "adapter folder '/nowhere/at/all' does not exist"),
        ("reference.model=/nowhere/at/all", "model folder '/nowhere/at/all' does not exist"),
        ("reference.model=no/such-model", "model 'no/such-model' has no weights a reference could be told by"),
        ("data.train=rowz.jsonl", "rowz.jsonl"),
    ],
)
def test_a_mistake_is_one_sentence(prefopt, config, override, told):
    assert told in prefopt("precompute", config, override).error


def test_an_interruption_says_that_work_is_kept(prefopt, config, monkeypatch):
    from prefopt.reference.loading import ReferenceModel

    def interrupt(self, rows):
        raise KeyboardInterrupt

    monkeypatch.setattr(ReferenceModel, "__call__", interrupt)
    outcome = prefopt("precompute", config)
    assert outcome.code == 130
    assert "what was scored is kept" in outcome.err


def stored(folder):
    found = {}
    for reference in folder.iterdir() if folder.exists() else ():
        for shard in Store(str(folder), reference.name).shards:
            shard.verify()
            found |= {own: shard.read(row).tobytes() for row, own in enumerate(shard.keys.tolist())}
    return found


def killed_and_started_again(config, place, num_kills):
    """Starts `precompute` as a process, kills it at a random moment, and so on; the last start may end.

    Most kills come within the first chunks it scores, some while it starts. Every chunk is a shard here.
    """
    code = (
        "import sys; from prefopt.reference import scoring; scoring._SHARD_SECONDS = 0.0; "
        "from prefopt.cli.app import main; main()"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, "precompute", str(config), f"reference.cache_dir={place}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    draw, kept, growth = random.Random(1), {}, []
    for number in range(num_kills):
        before = len(list(place.rglob("*.arrow")))
        child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if number % 10 == 9:
            time.sleep(draw.uniform(0, 3))
        else:
            while len(list(place.rglob("*.arrow"))) == before and child.poll() is None:
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        child.wait()
        now = stored(place)
        assert kept.items() <= now.items(), "a finished row was lost or changed"
        growth.append(len(now) - len(kept))
        kept = now
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return growth


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_50_random_moments_nothing_is_lost_and_the_end_is_the_same(shared, tmp_path):
    """stories260K on BLiMP; after each kill every shard is readable and holds what it held."""
    values = {
        "model": str(shared / "models" / "stories260K"),
        "data": {"train": str(shared / "data" / "blimp_pairs.jsonl"), "max_length": 128},
        "loss": "dpo",
        "reference": {"mode": "cached"},
        "training": {"tokens_per_microbatch": 128},
        "output_dir": str(tmp_path / "out"),
    }
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(values))
    assert not killed_and_started_again(config, tmp_path / "whole", 0)
    growth = killed_and_started_again(config, tmp_path / "killed", 50)
    print(f"\ncompletions gained before each kill: {growth}")
    assert sum(gained > 0 for gained in growth) >= 40  # the kills hit while it was scoring
    assert stored(tmp_path / "killed") == stored(tmp_path / "whole")


@pytest.mark.slow
def test_two_writers_at_once_end_in_the_same_store(shared, tmp_path):
    values = {
        "model": str(shared / "models" / "stories260K"),
        "data": {"train": str(shared / "data" / "blimp_pairs.jsonl[:1500]"), "max_length": 128},
        "loss": "dpo",
        "reference": {"mode": "cached", "cache_dir": str(tmp_path / "store")},
        "training": {"tokens_per_microbatch": 512},
        "output_dir": str(tmp_path / "out"),
    }
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-W", "ignore", "-m", "prefopt", "precompute", str(config)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    writers = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for writer in writers:
        assert writer.communicate()[1].count("scored  1,500 rows") == 1
        assert writer.returncode == 0
    alone = [*command, f"reference.cache_dir={tmp_path / 'alone'}"]
    subprocess.run(alone, env=environment, check=True, capture_output=True)
    assert stored(tmp_path / "store") == stored(tmp_path / "alone")
