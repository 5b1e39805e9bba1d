"""Memory and speed of the rows of a run: generated pairs, prepared for a run as `prefopt train` does.

    python benchmarks/performance/data_memory.py --model FOLDER [--rows 10000 100000 1000000] [--num-proc 1 2]

Rows are token ids, so that what is measured is this library and not a tokenizer; the last table is of text. Every line
is a process of its own: it prepares the rows, reads 200 batches of 64 at random places, and says the most memory it has
held beyond what it held once everything was imported. `list`: the same rows in memory, for comparison.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from measures import peak_bytes, resident_bytes
from transformers import AutoTokenizer

import prefopt
from prefopt.config import parse_config
from prefopt.data.load import load_rows
from prefopt.preparation import prepare

WORDS = "the a little girl boy saw found red blue big dog tree and then went home to play with her friend".split()


def write_ids(path, count, length):
    draw = random.Random(0)
    with path.open("w") as file:
        for _ in range(count):
            ids = [draw.randrange(3, 500) for _ in range(length)]
            third = length // 3
            row = {"prompt_ids": ids[:third], "chosen_ids": ids[third : 2 * third], "rejected_ids": ids[2 * third :]}
            file.write(json.dumps(row) + "\n")


def write_text(path, count, length):
    draw = random.Random(0)
    with path.open("w") as file:
        for _ in range(count):
            parts = [" ".join(draw.choices(WORDS, k=length // 3)) for _ in range(3)]
            row = dict(zip(("prompt", "chosen", "rejected"), parts, strict=True))
            file.write(json.dumps({**row, "chosen": f" {row['chosen']}", "rejected": f" {row['rejected']}"}) + "\n")


def measured(job):
    """In a process of its own."""
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    loss = prefopt.get_loss("dpo")
    how = {"streaming": True} if job["how"] == "stream" else {"num_proc": job["num_proc"], "cache_dir": job["cache"]}
    config = parse_config(
        {
            "model": job["model"],
            "data": {"train": job["rows"], "max_length": 512, **how},
            "loss": "dpo",
            "training": {"batch_size": 64, "max_steps": 200},
            "output_dir": "unused",
        }
    )
    before = resident_bytes()
    started = time.perf_counter()
    if job["how"] == "list":
        rows = load_rows(job["rows"], tokenizer, max_length=512)[0]
        draw = random.Random(0)
        batches = ([rows[draw.randrange(len(rows))] for _ in range(64)] for _ in range(200))
    else:
        batches = prepare(config, loss, tokenizer, job["rows"]).batches.after(0)
    prepared = time.perf_counter() - started
    started = time.perf_counter()
    for _ in islice(batches, 200):
        pass
    print(
        json.dumps(
            {
                "prepare": prepared,
                "batch": (time.perf_counter() - started) / 200,
                "peak": peak_bytes() - before,
            }
        )
    )


def run(**job):
    command = [sys.executable, "-W", "ignore", __file__, "--job", json.dumps(job)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a folder with a tokenizer")
    parser.add_argument("--rows", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--list-rows", type=int, default=100_000, help="the most rows to hold in a list")
    parser.add_argument("--num-proc", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--text-rows", type=int, default=20_000)
    parser.add_argument("--length", type=int, default=30, help="tokens or words of a row")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        measured(json.loads(args.job))
        return
    columns = ("rows", "kept", "peak memory", "first start", "next start", "batch of 64")
    print("".join(column.rjust(13) for column in columns))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        for count in args.rows:
            write_ids(path, count, args.length)
            job = {"model": args.model, "rows": str(path), "num_proc": 1, "cache": f"{folder}/cache"}
            for how in ("disk", "stream", "list"):
                if how == "list" and count > args.list_rows:
                    continue
                first = run(how=how, **job)
                again = run(how=how, **job) if how == "disk" else first
                cells = (
                    f"{count:,}",
                    how,
                    f"{max(first['peak'], again['peak']) / 1e6:.0f} MB",
                    f"{first['prepare']:.1f} s",
                    f"{again['prepare']:.1f} s",
                    f"{again['batch'] * 1e3:.1f} ms",
                )
                print("".join(cell.rjust(13) for cell in cells), flush=True)
        write_text(path, args.text_rows, args.length)
        for num_proc in args.num_proc:
            found = run(
                how="disk", model=args.model, rows=str(path), num_proc=num_proc, cache=f"{folder}/text{num_proc}"
            )
            rate = args.text_rows / found["prepare"]
            print(f"{args.text_rows:,} rows of text, num_proc {num_proc}: {rate:,.0f} rows/s with all checks")


if __name__ == "__main__":
    main()
