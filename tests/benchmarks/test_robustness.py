"""The long trials still run, in small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "robustness"


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    pairs = [{"prompt": f"Tell me of {one}.", "chosen": f" I like {one}", "rejected": f" {one}"} for one in range(40)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


def script(name, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "ignore", str(FOLDER / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_killed_and_resumed(model_folder, rows):
    found = script("kill_and_resume.py", model_folder, rows, "--kills", 3, "--steps", 12, "--losses", "bco")
    assert "the same, bit for bit" in found


@pytest.mark.slow
def test_the_soak(model_folder, rows):
    assert "within the last 6 steps: memory within" in script("soak.py", model_folder, rows, "--steps", 12)
