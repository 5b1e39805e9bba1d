"""A long run: memory and throughput from beginning to end.

    python benchmarks/robustness/soak.py MODEL ROWS [--steps 1000]

One process, `python -m prefopt train CONFIG`, with evaluations and checkpoints on the way. Its memory is read from
outside every tenth of a second; memory and throughput are compared between the two halves, and within the second one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = """\
model: {model}
data: {{train: '{rows}', evaluation: 16, max_length: 256}}
loss: {loss}
training: {{batch_size: 16, learning_rate: 3.0e-5, max_steps: {steps}}}
evaluation: {{every_steps: 100}}
checkpoints: {{every_steps: 100, keep_best: loss}}
output_dir: {out}
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("model")
    arguments.add_argument("rows")
    arguments.add_argument("--steps", type=int, default=1000)
    arguments.add_argument("--loss", default="dpo")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        config = Path(folder) / "run.yaml"
        places = {"model": Path(given.model).resolve(), "rows": Path(given.rows).resolve(), "out": output}
        config.write_text(SETTINGS.format(loss=given.loss, steps=given.steps, **places))
        process = subprocess.Popen([sys.executable, "-m", "prefopt", "train", str(config)], stderr=subprocess.DEVNULL)
        held = watched(process, output)
        if process.returncode:
            sys.exit(f"the run ended with exit code {process.returncode}")
        metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    half = given.steps // 2
    late = [size for step, size in held if step > half]
    print(f"{given.loss}, {given.steps} steps of 16 rows")
    for name, part in (("first half", range(1, half + 1)), ("second half", range(half + 1, given.steps + 1))):
        sizes = [size for step, size in held if step in part]
        rates = [one["tokens_per_second"] for one in metrics if one["step"] in part]
        print(
            f"{name:12} memory {min(sizes) / 2**20:.1f} to {max(sizes) / 2**20:.1f} MiB, median "
            f"{statistics.median(sizes) / 2**20:.1f}; {statistics.median(rates):,.0f} tokens/s (median)"
        )
    # At one instant a step holds its activations and at another it does not; what a run needs is the most of either.
    window = max(1, given.steps // 20)
    peaks = [
        max(size for step, size in held if first < step <= first + window)
        for first in range(half, given.steps, window)
        if any(first < step <= first + window for step, _ in held)
    ]
    spread = max(peaks) / min(peaks) - 1
    print(f"within the last {given.steps - half} steps: memory within {spread:.2%} (peaks of every {window} steps)")
    print(f"from instant to instant, activations there or not: within {max(late) / min(late) - 1:.2%}")
    quarters = [late[: len(late) // 4], late[-(len(late) // 4) :]]
    drift = statistics.median(quarters[1]) / statistics.median(quarters[0]) - 1
    print(f"median of their last quarter against their first: {drift:+.2%}")


def watched(process: subprocess.Popen[bytes], output: Path) -> list[tuple[int, int]]:
    """(step, resident bytes) as the run goes on."""
    held = []
    page = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            resident = next(line for line in page.read_text().splitlines() if line.startswith("VmRSS:"))
        except (OSError, StopIteration):
            break
        path = output / "metrics.jsonl"
        if path.exists() and (steps := path.read_bytes().count(b"\n")):
            held.append((steps, int(resident.split()[1]) * 1024))
        time.sleep(0.1)
    process.wait()
    return held


if __name__ == "__main__":
    main()
