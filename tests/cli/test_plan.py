from __future__ import annotations

import json

import pytest


def test_the_page_says_what_a_run_takes_and_writes_nothing(prefopt, write_config, write_rows, pair_rows, tmp_path):
    outcome = prefopt("plan", write_config(write_rows(pair_rows)), "--device", "cpu", "--tflops", "1")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert any(line.startswith("peak") for line in lines)
    assert not (tmp_path / "out").exists()


def test_json_holds_the_same(prefopt, write_config, write_rows, pair_rows):
    outcome = prefopt("plan", write_config(write_rows(pair_rows)), "--json", "--processes", "2", "--sharding", "fsdp")
    found = json.loads(outcome.out)
    assert set(found["memory_bytes"]) == {"live", "stored"}
    assert found["memory_bytes"]["live"]["peak"] > found["memory_bytes"]["stored"]["peak"]
    assert found["num_steps"] == 3


@pytest.mark.parametrize(
    ("override", "sentence"),
    [("training.optimzer=sgd", "optimizer"), ("loss=dpoo", "dpo"), ("training.tokens_per_microbatch=4", "raise it")],
)
def test_what_would_stop_the_run_stops_the_plan(prefopt, write_config, write_rows, pair_rows, override, sentence):
    assert sentence in prefopt("plan", write_config(write_rows(pair_rows)), override).error


def test_no_weights_are_needed(prefopt, write_config, write_rows, pair_rows, model_folder, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in model_folder.iterdir():
        if file.suffix != ".safetensors":
            (bare / file.name).write_bytes(file.read_bytes())
    outcome = prefopt("plan", write_config(write_rows(pair_rows)), f"model={bare}", "--device", "cuda")
    assert outcome.code == 0, outcome.err
