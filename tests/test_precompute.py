from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest

import prefopt
from prefopt.config import parse_config
from prefopt.errors import ConfigError, DataError, ModelError
from prefopt.precompute import precompute, rescore
from prefopt.reference import loading
from prefopt.reference.store import Store
from prefopt.run import run

ROOT = Path(__file__).resolve().parents[1]
DPO, KTO = prefopt.get_loss("dpo"), prefopt.get_loss("kto")


@pytest.fixture
def config(model_folder, tmp_path):
    def make(**changed):
        values = {
            "model": str(model_folder),
            "data": {"train": "in memory", "max_length": 64},
            "loss": "dpo",
            "reference": {"mode": "cached", "cache_dir": str(tmp_path / "store")},
            "training": {"batch_size": 4, "tokens_per_microbatch": 256, "max_steps": 1},
            "output_dir": str(tmp_path / "out"),
        }
        for key, value in changed.items():
            values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
        return parse_config(values)

    return make


def stored(place):
    """Key -> values, over all shards of all references."""
    found = {}
    for folder in Path(place).iterdir():
        store = Store(str(place), folder.name)
        for shard in store.shards:
            found |= {own: shard.read(row).tobytes() for row, own in enumerate(shard.keys.tolist())}
    return found


@pytest.mark.parametrize("loss", [DPO, KTO], ids=["dpo", "kto"])
def test_a_run_after_precompute_scores_nothing(config, pair_rows, loss):
    found = precompute(config(), loss, train=pair_rows)
    assert (found["rows_scored"], found["rows_reused"], found["model_loaded"]) == (9, 0, True)
    assert found["num_completions"] == (18 if loss is DPO else 36)
    record = run(config(reference={"strict": True}), loss, train=pair_rows)["reference"]
    assert (record["rows_scored"], record["rows_reused"], record["model_loaded"]) == (0, 9, False)


@pytest.mark.parametrize("evaluation", [3, "file"])
def test_held_out_rows_are_scored_too(config, pair_rows, write_rows, evaluation):
    held_out = evaluation if evaluation == 3 else str(write_rows(pair_rows[6:]))
    train = pair_rows if evaluation == 3 else pair_rows[:6]
    settings = {"data": {"evaluation": held_out}}
    assert precompute(config(**settings), DPO, train=train)["rows_scored"] == 9
    assert run(config(**settings, reference={"strict": True}), DPO, train=train)["reference"]["rows_reused"] == 9


def test_nothing_is_loaded_where_nothing_is_missing(config, pair_rows, monkeypatch):
    precompute(config(), DPO, train=pair_rows)
    monkeypatch.setattr(loading, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    found = precompute(config(), DPO, train=pair_rows)
    assert (found["rows_scored"], found["rows_reused"], found["model_loaded"]) == (0, 9, False)


def test_lists_files_datasets_and_streams_fill_the_same_store(config, pair_rows, write_rows, tmp_path):
    dataset = datasets.Dataset.from_list(pair_rows)
    dataset.to_parquet(tmp_path / "rows.parquet")
    dataset.save_to_disk(tmp_path / "arrow")
    sources = {
        "list": pair_rows,
        "jsonl": str(write_rows(pair_rows)),
        "parquet": str(tmp_path / "rows.parquet"),
        "arrow": str(tmp_path / "arrow"),
        "dataset": dataset,
        "stream": dataset.to_iterable_dataset(),
        "generated": datasets.IterableDataset.from_generator(lambda: iter(pair_rows)),
    }
    found = {}
    for name, source in sources.items():
        place = tmp_path / f"store {name}"
        assert precompute(config(reference={"cache_dir": str(place)}), DPO, train=source)["rows_scored"] == 9
        found[name] = stored(place)
    assert all(values == found["list"] for values in found.values())


def test_a_stream_is_not_read_ahead(config, pair_rows, monkeypatch):
    """A chunk is scored before the next one is read: memory does not grow with the rows."""
    read, scored = [], []

    def endless():
        for number in range(10_000):
            read.append(number)
            yield {**pair_rows[number % 9], "prompt": f"Tell me about number {number}."}

    score = loading.ReferenceModel.__call__

    def counted(self, rows):
        scored.append((len(rows), len(read)))
        if len(scored) == 3:
            raise KeyboardInterrupt
        return score(self, rows)

    monkeypatch.setattr(loading.ReferenceModel, "__call__", counted)
    source = datasets.IterableDataset.from_generator(endless)
    with pytest.raises(KeyboardInterrupt):
        precompute(config(), DPO, train=source)
    assert [sum(count for count, _ in scored[: index + 1]) for index in range(3)] == pytest.approx(
        [seen for _, seen in scored], abs=2
    )
    assert len(stored(config().reference.cache_dir)) == 2 * sum(count for count, _ in scored[:2])


def test_longer_rows_later_in_a_stream_are_proved_on(config, pair_rows, monkeypatch):
    proved = []
    proven = loading.proven

    def counted(model, name, tokenizer, rows, **settings):
        proved.append(max(len(row.prompt) for row in rows))
        return proven(model, name, tokenizer, rows, **settings)

    monkeypatch.setattr(loading, "proven", counted)
    long = [{**row, "prompt": "so " * 20 + row["prompt"]} for row in pair_rows]
    settings = config(training={"tokens_per_microbatch": 100}, data={"max_length": 100})
    precompute(settings, DPO, train=[*pair_rows * 30, *long, *pair_rows])
    assert len(proved) > 1
    assert proved == sorted(proved)


@pytest.mark.parametrize("kind", ["rankings", "labels"])
def test_every_kind_of_row_is_scored(config, kind):
    rows = {
        "rankings": [{"prompt": f"{n}?", "completions": [" a", " bb", " ccc"], "scores": [1, 2, 3]} for n in range(4)],
        "labels": [{"prompt": f"{n}?", "completion": f" a{n}", "label": n % 2 == 0} for n in range(4)],
    }[kind]
    loss = DPO if kind == "rankings" else KTO
    found = precompute(config(), loss, train=rows)
    assert found["num_completions"] == (12 if kind == "rankings" else 8)
    assert run(config(reference={"strict": True}), loss, train=rows)["reference"]["rows_scored"] == 0


def test_bad_rows_are_refused_or_skipped_and_listed(config, pair_rows):
    rows = [*pair_rows, {"prompt": "x", "chosen": " a", "rejected": " a"}]
    with pytest.raises(DataError, match="list row 10"):
        precompute(config(), DPO, train=rows)

    class Listener(prefopt.watcher.Watcher):
        lines: list[str] = []  # noqa: RUF012

        def say(self, line):
            self.lines.append(line)

    precompute(config(data={"on_bad_row": "skip"}), DPO, train=rows, watcher=Listener())
    assert "9 of 10 rows kept" in " ".join(Listener.lines)
    assert any("1 row dropped" in line for line in Listener.lines)


@pytest.mark.parametrize(
    ("changed", "loss", "told"),
    [
        ({}, prefopt.get_loss("simpo"), "loss simpo reads no reference, so there is nothing to score"),
        ({"training": {"tokens_per_microbatch": 5}}, DPO, "list row 1: prompt and one completion take"),
        ({"reference": {"mode": "none", "cache_dir": None}}, DPO, "reference.mode is 'none'"),
        ({"reference": {"mode": "live", "cache_dir": None, "update_steps": 5}}, DPO, "nothing to score before"),
    ],
)
def test_what_cannot_be_scored_is_refused(config, pair_rows, changed, loss, told):
    with pytest.raises(ConfigError, match=told):
        precompute(config(**changed), loss, train=pair_rows)


def test_a_row_beyond_the_models_positions_is_refused_when_it_comes(config, pair_rows, model_folder, tmp_path):
    import shutil

    shutil.copytree(model_folder, tmp_path / "short")
    path = tmp_path / "short" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 8}))
    with pytest.raises(ModelError, match="has 8 positions, but the longest row has"):
        precompute(config(model=str(tmp_path / "short")), DPO, train=pair_rows)


def test_a_sample_is_scored_again_on_demand(config, write_rows, pair_rows):
    settings = config(data={"train": str(write_rows(pair_rows))})
    precompute(settings, DPO)
    checked, gap = rescore(settings, DPO, num_rows=4, say=print)
    assert checked == 4
    assert gap < 1e-5


def test_two_processes_share_the_work(config, write_rows, pair_rows, tmp_path):
    rows = [{**row, "prompt": f"{number}: {row['prompt']}"} for number in range(5) for row in pair_rows]
    settings = config(
        data={"train": str(write_rows(rows))},
        training={"tokens_per_microbatch": 64},
        reference={"cache_dir": str(tmp_path / "two")},
    )
    from prefopt.config import to_yaml

    (tmp_path / "run.yaml").write_text(to_yaml(settings))
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    arguments = ["-m", "prefopt", "precompute", str(tmp_path / "run.yaml")]
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("scored  45 rows (90 completions)") == 1
    alone = config(
        data={"train": str(write_rows(rows))},
        training={"tokens_per_microbatch": 64},
        reference={"cache_dir": str(tmp_path / "one")},
    )
    precompute(alone, DPO)
    one, two = stored(tmp_path / "one"), stored(tmp_path / "two")
    assert len(list((tmp_path / "two").rglob("*.arrow"))) == 2
    assert set(one) == set(two)
    for own, values in one.items():
        np.testing.assert_allclose(np.frombuffer(two[own], np.float32), np.frombuffer(values, np.float32), atol=1e-5)
