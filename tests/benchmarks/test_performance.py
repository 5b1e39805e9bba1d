"""The comparisons still run, on models too small to time."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "performance"


def script(name, *arguments):
    """What a script prints, warnings of other libraries left out."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "ignore", str(FOLDER / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def side(model_folder, tmp_path):
    """One run of prefopt's side of a comparison."""
    draw = random.Random(0)

    def ids(length):
        return [draw.randrange(60) for _ in range(length)]

    rows = [{"prompt_ids": ids(9), "chosen_ids": ids(5), "rejected_ids": ids(7)} for _ in range(4)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))

    def run(**changed):
        job = {
            "model": str(model_folder),
            "rows": str(tmp_path / "rows.json"),
            "mode": "precomputed",
            "dtype": "float32",
            "device": "cpu",
            "threads": 1,
            "batch_size": 2,
            "learning_rate": 1e-2,
            "tokens_per_microbatch": 64,
            **changed,
        }
        return json.loads(script("prefopt_side.py", json.dumps(job)).splitlines()[-1])

    return run


def test_every_switch_of_the_ledger_leaves_the_losses_as_they_are(side):
    plain = side()
    assert plain["losses"][0] == pytest.approx(0.6931472, abs=1e-6)
    assert plain["losses"][1] != pytest.approx(plain["losses"][0], abs=1e-4)  # the weights did move
    assert plain["scoring_seconds"] > 0
    assert plain["peak_bytes"] > 10**8
    for changed in (
        {"mode": "live"},
        {"packed": False},
        {"chunked_head": False},
        {"switches": ["fresh_chunks", "plain_adamw"]},
        {"gradient_checkpointing": True},
    ):
        assert side(**changed)["losses"] == pytest.approx(plain["losses"], rel=1e-5), changed


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's high-water mark")
def test_a_run_does_not_report_the_memory_of_the_process_that_started_it():
    child = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import measures; print(measures.peak_bytes())"
    parent = "import subprocess, sys; held = bytearray(3 * 10**9); subprocess.run([sys.executable, '-c', sys.argv[1]])"
    done = subprocess.run([sys.executable, "-c", parent, child], capture_output=True, text=True, check=True)
    assert 10**7 < int(done.stdout) < 2 * 10**9


def test_the_size_of_a_store_is_measured():
    out = script("store_size.py", "--rows", 200, 2000, "--per-shard", 1000, "--many-shards", 20)
    assert [line.split()[:2] for line in out.splitlines()[3:6]] == [["200", "1"], ["2,000", "4"], ["2,000", "20"]]
    assert all(len(line) <= 80 for line in out.splitlines())


@pytest.mark.slow
def test_the_memory_of_rows_is_measured(model_folder):
    printed = script("data_memory.py", "--model", model_folder, "--rows", 300, "--text-rows", 100, "--num-proc", 1)
    assert [line.split()[1] for line in printed.splitlines() if line.lstrip().startswith("300")] == [
        "disk",
        "stream",
        "list",
    ]
    assert "100 rows of text, num_proc 1:" in printed


def test_the_rate_of_scoring_is_measured(model_folder, write_rows, pair_rows):
    out = script("scoring.py", "--model", model_folder, "--rows", write_rows(pair_rows), "--rounds", 1)
    assert "of the bare forward pass" in out.splitlines()[-1]


@pytest.mark.slow
def test_the_memory_of_a_reference_is_measured():
    out = script("reference_memory.py", "--small")
    found = re.findall(r" +([\d.]+) +([\d.]+) +(-?\d+)% +\d+%", out)
    assert len(found) == 5
    assert all(float(live) > float(stored) and int(saved) > 0 for live, stored, saved in found)


@pytest.mark.slow
def test_large_vocabularies_take_a_quarter_of_the_memory_of_dense_logits():
    assert float(script("large_vocabulary.py").rsplit(maxsplit=1)[-1]) <= 0.25


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("trl") is None, reason="TRL is not installed: pip install 'prefopt[compare]'"
)
def test_prefopt_and_trl_take_the_same_steps(model_folder, tmp_path):
    settings = ["--random", 30, 8, "--batch-size", 2, "--steps", 3, "--rounds", 1, "--learning-rate", 1e-2]
    record = tmp_path / "record.json"
    out = script("vs_trl.py", "--model", model_folder, *settings, "--device", "cpu", "--record", record)
    assert "step losses agree" in out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert json.loads(record.read_text())["largest_loss_difference"] <= 1e-3
