"""prefopt against TRL: the same model, rows, truncation, optimiser and threads, in alternating runs of one call.

    python benchmarks/performance/vs_trl.py --model MODEL --rows PAIRS.jsonl
    python benchmarks/performance/vs_trl.py --model MODEL --random 1500 60

Four ways to take the same DPO steps: TRL and prefopt, each with the reference live in memory and with its log-probs
scored before step 1. Every run is a process of its own, so that its peak memory is its own. Needs `prefopt[compare]`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from comparison import add_arguments, pairs, run
from measures import matmul_flops_per_second
from rich import box
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from prefopt.training.batches import batches

HERE = Path(__file__).parent
WAYS = (("trl", "live"), ("prefopt", "live"), ("trl", "precomputed"), ("prefopt", "precomputed"))
MATRICES = (torch.nn.Linear, Conv1D)
LOSS_TOLERANCE = 1e-3  # two float32 programs drift apart by rounding, step after step


def flops(rows, batch_size, model):
    """What the trees of all steps ask of the model, each prompt of a step once: forward, and twice that backward."""
    head = model.get_output_embeddings().weight
    backbone = sum(layer.weight.numel() for layer in model.base_model.modules() if isinstance(layer, MATRICES))
    config = model.config.get_text_config()
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    trees = {}
    for number, row in enumerate(rows):
        tree = trees.setdefault((number // batch_size, *row["prompt_ids"]), (len(row["prompt_ids"]), []))
        tree[1].extend([len(row["chosen_ids"]), len(row["rejected_ids"])])
    total = 0
    for prompt, branches in trees.values():
        tokens = prompt + sum(branches) - len(branches)
        seen = prompt**2 / 2 + sum(length * (prompt + length / 2) for length in branches)
        total += 2 * backbone * tokens + 2 * head.numel() * sum(branches)
        total += 4 * seen * width * config.num_hidden_layers
    return 3 * total


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    args = parser.parse_args()
    console = Console()
    rows = pairs(args)
    order = [index for step in batches(len(rows), args.batch_size, steps=args.steps, seed=0) for index in step]
    model = AutoModelForCausalLM.from_pretrained(args.model)
    floor_flops = flops(rows, args.batch_size, model) / args.steps
    tokens = sum(len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows)
    del model
    found = {way: [] for way in WAYS}
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        files = {"prefopt": Path(folder, "prefopt.json"), "trl": Path(folder, "trl.json")}
        files["trl"].write_text(json.dumps(rows))
        shuffled = dict(zip(order, rows, strict=True))  # so that prefopt's own shuffle gives the order of TRL's file
        files["prefopt"].write_text(json.dumps([shuffled[index] for index in range(len(rows))]))
        for _ in range(args.rounds):
            for library, mode in WAYS:
                found[library, mode].append(run(library, files[library], args, mode=mode))
                last = found[library, mode][-1]
                steps = " ".join(f"{seconds:.1f}" for seconds in last["step_seconds"])
                console.print(
                    f"{library} {mode}: steps of {steps} s, scoring {last['scoring_seconds']:.1f} s, "
                    f"peak {last['peak_bytes'] / 1e9:.2f} GB",
                    highlight=False,
                )
            rates.append(matmul_flops_per_second(getattr(torch, args.dtype), args.device, args.threads))

    truth = found["trl", "live"][0]["losses"]
    gap = max(abs(a - b) for runs in found.values() for one in runs for a, b in zip(one["losses"], truth, strict=True))
    rate = statistics.median(rates)
    summary = {}
    for way, runs in found.items():
        step = statistics.median(seconds for one in runs for seconds in one["step_seconds"])
        whole = statistics.median(sum(one["step_seconds"]) for one in runs)
        scoring = statistics.median(one["scoring_seconds"] for one in runs)
        summary[" ".join(way)] = {
            "median_step_seconds": step,
            "mean_step_seconds": whole / args.steps,
            "tokens_per_second": tokens / whole,
            "scoring_seconds": scoring,
            "peak_bytes": max(one["peak_bytes"] for one in runs),
            "share_of_floor": floor_flops / rate / (whole / args.steps),
            "epoch_seconds": whole + scoring,
        }
    show(console, args, summary, gap, floor_flops, rates)
    if args.record:
        record(args, summary, gap, floor_flops, rates, {" ".join(way): runs for way, runs in found.items()})
    if not gap <= LOSS_TOLERANCE:
        sys.exit(1)


def show(console, args, summary, gap, floor_flops, rates):
    table = Table(
        title=f"{args.batch_size} pairs a step, {args.steps} steps, {args.rounds} rounds",
        caption="epoch: all steps and, where there is one, the scoring pass",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for column in ("", "median s", "mean s", "tokens/s", "peak GB", "of floor", "epoch s"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for way, one in summary.items():
        table.add_row(
            way,
            f"{one['median_step_seconds']:.2f}",
            f"{one['mean_step_seconds']:.2f}",
            f"{one['tokens_per_second']:.0f}",
            f"{one['peak_bytes'] / 1e9:.2f}",
            f"{one['share_of_floor']:.2f}",
            f"{one['epoch_seconds']:.0f}",
        )
    console.print(table)
    ours, live, stored = summary["prefopt precomputed"], summary["trl live"], summary["trl precomputed"]

    def times(other, one, key):
        return f"{other[key] / one[key]:.2f}"

    for name, other in (("TRL live", live), ("TRL precomputed", stored)):
        console.print(
            f"prefopt precomputed against {name}: {times(other, ours, 'median_step_seconds')}x by median step, "
            f"{times(other, ours, 'mean_step_seconds')}x by mean step, "
            f"{times(other, ours, 'epoch_seconds')}x with the scoring pass counted, "
            f"{ours['peak_bytes'] / other['peak_bytes']:.2f}x its peak memory",
            highlight=False,
        )
    both = summary["prefopt live"]
    console.print(f"prefopt live against TRL live: {times(live, both, 'median_step_seconds')}x by median step")
    agree = "agree" if gap <= LOSS_TOLERANCE else "DISAGREE"
    console.print(f"step losses {agree}: largest difference {gap:.1e} (tolerance {LOSS_TOLERANCE})", highlight=False)
    rate = ", ".join(f"{one / 1e9:.0f}" for one in rates)
    console.print(f"floor: {floor_flops / 1e12:.2f} TFLOP a step; matrix products ran at {rate} GFLOP/s")


def record(args, summary, gap, floor_flops, rates, runs):
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    device = torch.cuda.get_device_name() if args.device == "cuda" else platform.machine()
    names = ("prefopt", "trl", "torch", "transformers", "accelerate")
    args.record.parent.mkdir(parents=True, exist_ok=True)
    settings = {key: value for key, value in vars(args).items() if key != "record"}
    for key in ("model", "rows"):
        settings[key] = settings[key] and Path(settings[key]).name
    result = {
        "commit": commit.stdout.strip(),
        "machine": f"{device}, {os.cpu_count()} cores, {platform.system()}",
        "versions": {name: version(name) for name in names},
        "settings": settings,
        "summary": summary,
        "largest_loss_difference": gap,
        "floor_flops_per_step": floor_flops,
        "matmul_flops_per_second": rates,
        "runs": runs,
    }
    args.record.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
