"""The performance ledger: what each accelerating step of the engine gives, one switched at a time.

    python benchmarks/performance/ledger.py --model MODEL --rows PAIRS.jsonl

Prints the table of benchmarks/performance/README.md: time and peak memory of each variant against the engine as it is,
and how far its first gradient is from the true one: float64, with everything switched off.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch
from comparison import add_arguments, pairs, run
from rich.console import Console
from rich.table import Table

AS_IS = {"mode": "precomputed"}
VARIANTS = {
    "as it is": {},
    "plain rows: each prompt twice, padded": {"packed": False},
    "dense logits of scored tokens": {"chunked_head": False},
    "new memory for every chunk of logits": {"switches": ["fresh_chunks"]},
    "AdamW not fused": {"switches": ["plain_adamw"]},
    "reference live": {"mode": "live"},
    "micro-batches half as large": {"scale": 0.5},
    "micro-batches twice as large": {"scale": 2},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "torch.compile of MLP and norms": {"switches": ["compiled_mlp"]},
}
ALL_OFF = {"packed": False, "chunked_head": False, "switches": ["plain_adamw"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--only", nargs="*", help="variants to run besides the engine as it is")
    args = parser.parse_args()
    console = Console(width=110)
    chosen = {name: own for name, own in VARIANTS.items() if not args.only or name in args.only or not own}
    found = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory() as folder:
        rows, grads = Path(folder, "rows.json"), {name: Path(folder, f"{number}") for number, name in enumerate(chosen)}
        rows.write_text(json.dumps(pairs(args)))
        truth_file = Path(folder, "truth")
        run("prefopt", rows, args, **AS_IS, **ALL_OFF, dtype="float64", gradient=str(truth_file))
        truth = torch.load(truth_file, weights_only=True)
        gaps = {}
        for number in range(args.rounds):
            for name, own in chosen.items():
                settings = {**AS_IS, **own}
                scale = settings.pop("scale", 1)
                settings["tokens_per_microbatch"] = int(args.tokens_per_microbatch * scale)
                if number == 0:  # not timed: it takes one step more
                    run("prefopt", rows, args, **settings, gradient=str(grads[name]))
                    found_gradient = torch.load(grads[name], weights_only=True).double()
                    gaps[name] = float(torch.dist(found_gradient, truth) / truth.norm())
                    grads[name].unlink()
                found[name].append(run("prefopt", rows, args, **settings))
                steps = " ".join(f"{seconds:.2f}" for seconds in found[name][-1]["step_seconds"])
                console.print(f"{name}: {steps} s", highlight=False)
    show(console, found, gaps)


def show(console, found, gaps):
    def median(name):
        # The first step of every run pays for fresh memory, some more than others.
        return statistics.median(sum(one["step_seconds"][1:]) for one in found[name])

    def peak(name):
        return max(one["peak_bytes"] for one in found[name])

    table = Table(title="against the engine as it is")
    for column in ("variant", "time", "peak memory", "gradient"):
        table.add_column(column, justify="left" if column == "variant" else "right", no_wrap=True)
    for name in found:
        table.add_row(
            name,
            f"{median(name) / median('as it is'):.2f}x",
            f"{peak(name) / 1e9:.2f} GB",
            f"{gaps[name]:.1e}",
        )
    console.print(table)
    console.print("gradient: relative L2 distance of the first step's from float64 with everything off")


main()
