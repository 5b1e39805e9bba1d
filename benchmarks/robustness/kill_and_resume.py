"""Kill a run with SIGKILL at random moments, resume it each time, and hold its weights against an undisturbed run's.

    python benchmarks/robustness/kill_and_resume.py MODEL ROWS [--kills 30] [--losses dpo kto bco]

Every start is a process of its own, `python -m prefopt train CONFIG --resume`. A third of the kills come as soon as a
checkpoint is being written, a third within the steps, and a third at any time from the start on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = """\
model: {model}
data: {{train: '{rows}', evaluation: 16, max_length: 256}}
loss: {loss}
training: {{batch_size: 16, learning_rate: 1.0e-4, max_steps: {steps}, scheduler: cosine, warmup_steps: 5}}
evaluation: {{every_steps: 20}}
checkpoints: {{every_steps: 5, keep_best: loss}}
output_dir: {out}
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("model")
    arguments.add_argument("rows")
    arguments.add_argument("--kills", type=int, default=30)
    arguments.add_argument("--steps", type=int, default=60)
    arguments.add_argument("--losses", nargs="+", default=["dpo", "kto", "bco"])
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    print(
        f"{'loss':6} {'kills':>5} {'while saving':>12} {'in steps':>8} {'at any time':>11} {'starts':>6}  final state"
    )
    failed = False
    for loss in given.losses:
        with tempfile.TemporaryDirectory() as folder:
            failed |= not trial(given, loss, Path(folder))
    sys.exit(failed)


def trial(given: argparse.Namespace, loss: str, folder: Path) -> bool:
    draw = random.Random(f"{given.seed} {loss}")
    whole, disturbed = (config(given, loss, folder, name) for name in ("whole", "disturbed"))
    subprocess.run(command(whole), check=True, capture_output=True)
    kills = {"saving": 0, "steps": 0, "any": 0}
    starts = 0
    while sum(kills.values()) < given.kills:
        how = ("saving", "steps", "any")[sum(kills.values()) % 3]
        starts += 1
        kills[how] += killed(disturbed, how, draw)
        if (folder / "disturbed" / "run.json").exists():  # it got to the end: begin again
            shutil.rmtree(folder / "disturbed")
    done = subprocess.run(command(disturbed), capture_output=True, text=True)
    same = done.returncode == 0 and digest(folder / "whole") == digest(folder / "disturbed")
    verdict = "the same, bit for bit" if same else f"DIFFERENT {done.stderr[-500:]}"
    counts = f"{sum(kills.values()):5} {kills['saving']:12} {kills['steps']:8} {kills['any']:11} {starts + 1:6}"
    print(f"{loss:6} {counts}  {verdict}", flush=True)
    return same


def config(given: argparse.Namespace, loss: str, folder: Path, name: str) -> Path:
    path = folder / f"{name}.yaml"
    rows, model = Path(given.rows).resolve(), Path(given.model).resolve()
    path.write_text(SETTINGS.format(model=model, rows=rows, loss=loss, steps=given.steps, out=folder / name))
    return path


def command(path: Path) -> list[str]:
    return [sys.executable, "-m", "prefopt", "train", str(path), "--resume"]


def killed(path: Path, how: str, draw: random.Random) -> bool:
    """Start the run and kill it; whether it was still alive."""
    output = path.with_suffix("")
    before = lines(output)
    process = subprocess.Popen(command(path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if how == "any":
        time.sleep(draw.uniform(0, 12))
    else:
        while process.poll() is None and lines(output) <= before and not partial(output):
            time.sleep(0.001)
        if how == "steps":
            time.sleep(draw.uniform(0, 0.6))
        else:
            while process.poll() is None and not partial(output):
                pass
            time.sleep(draw.uniform(0, 0.01))
    alive = process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return alive


def lines(output: Path) -> int:
    path = output / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def partial(output: Path) -> bool:
    return any((output / "checkpoints").glob(".partial-*"))


def digest(output: Path) -> str:
    """Of the weights, the loss's state, the best model and every step's numbers but those of the clock."""
    found = hashlib.sha256()
    for name in ("model.safetensors", "loss_state.safetensors", "best/model.safetensors", "best/best.json"):
        if (output / name).exists():
            found.update(name.encode() + (output / name).read_bytes())
    for line in (output / "metrics.jsonl").read_text().splitlines():
        clock = ("step_seconds", "tokens_per_second", "peak_memory_bytes", "peak_cuda_bytes")
        found.update(json.dumps({key: value for key, value in json.loads(line).items() if key not in clock}).encode())
    return found.hexdigest()


if __name__ == "__main__":
    main()
