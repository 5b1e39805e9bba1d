"""What a cell costs, and how that grows with the world, the trials and the seeds.

    python benchmarks/exact/cost.py

Times the held-out cell of DPO on the well-specified task, one thread, median of three; the first line is the default.
"""

import argparse
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table

import prefopt
from prefopt.bench.exact import measure
from prefopt.bench.suite import method_of
from prefopt.bench.trials import draw_trials
from prefopt.method import Budget

DEFAULT = {"num_prompts": 8, "depth": 6, "trials": 16, "seeds": 5, "batch_size": 64}
VARIANTS = [
    {},
    {"depth": 4},
    {"depth": 8},
    {"depth": 9},
    {"num_prompts": 2},
    {"num_prompts": 32},
    {"trials": 1},
    {"trials": 64},
    {"seeds": 1},
    {"seeds": 20},
    {"batch_size": 16},
    {"batch_size": 256},
]
STEPS = 100


def seconds(task, method, own):
    settings = task.settings({name: own[name] for name in ("num_prompts", "depth")})
    trials, seeds = draw_trials(method.tune, own["trials"]), range(own["seeds"])
    began = time.perf_counter()
    measure(task, settings, method, trials, seeds, Budget(STEPS, own["batch_size"], (STEPS // 2, STEPS)))
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="dpo", help="a loss or another method")
    args = parser.parse_args()
    torch.set_num_threads(1)
    registry = prefopt.load_registry()
    task, method = registry.task("bradley_terry"), method_of(args.method, registry)
    seconds(task, method, DEFAULT)  # warm
    table = Table("what differs", "completions", "policies", f"seconds for {STEPS} steps", "to the default")
    base = None
    for variant in VARIANTS:
        own = DEFAULT | variant
        found = statistics.median(seconds(task, method, own) for _ in range(3))
        base = base or found
        completions = own["num_prompts"] * (2 ** (own["depth"] + 1) - 2)
        words = ", ".join(f"{name} {value}" for name, value in variant.items()) or "nothing"
        table.add_row(
            words, f"{completions:,}", str(own["trials"] * own["seeds"]), f"{found:.2f}", f"{found / base:.2f}"
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
