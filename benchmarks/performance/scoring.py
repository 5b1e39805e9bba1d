"""How fast a store is filled, against the engine's bare forward pass over the same completions.

    python benchmarks/performance/scoring.py --model MODEL --rows PAIRS.jsonl

`precompute` reads and tokenises the file, looks every completion up, scores it, checks it and writes shards; `bare`
scores trees that lie ready. Both use one loaded model, alternating.
"""

import argparse
import os
import statistics
import tempfile
import time

import torch

import prefopt
from prefopt.config import parse_config
from prefopt.data.load import load_rows
from prefopt.data.trees import grow_rows
from prefopt.engine.loading import load_model, load_tokenizer
from prefopt.engine.proven import proven
from prefopt.preparation import stream
from prefopt.reference.identity import identify
from prefopt.reference.scoring import fill
from prefopt.reference.store import Store


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or Hub id")
    parser.add_argument("--rows", required=True, help="a file of pairs; a slice of it makes a shorter run")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--tokens-per-microbatch", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = parse_config(
        {
            "model": args.model,
            "data": {"train": args.rows, "max_length": args.max_length},
            "loss": "dpo",
            "reference": {"mode": "cached"},
            "training": {"tokens_per_microbatch": args.tokens_per_microbatch},
            "output_dir": "unused",
        }
    )
    loss, tokenizer = prefopt.get_loss("dpo"), load_tokenizer(config.model)
    rows, _ = load_rows(args.rows, tokenizer, max_length=args.max_length)
    scorer, _ = proven(load_model(config.model), args.model, tokenizer, rows)
    trees = grow_rows(rows)
    tokens = sum(tree.num_tokens for tree in trees)
    identity = identify(config.model)
    bare, filled = [], []
    for _ in range(args.rounds):
        started = time.perf_counter()
        scorer.score(trees, tokens_per_microbatch=args.tokens_per_microbatch)
        bare.append(time.perf_counter() - started)
        with tempfile.TemporaryDirectory() as place:
            started = time.perf_counter()
            store = Store(place, identity.digest)
            store.check_writable()
            data = stream(config, loss, tokenizer, args.rows)
            fill(
                store,
                data.rows,
                lambda _: scorer,
                tokens_per_microbatch=args.tokens_per_microbatch,
                made_by={},
            )
            filled.append(time.perf_counter() - started)
        print(f"bare {bare[-1]:.2f} s, precompute {filled[-1]:.2f} s")
    ratios = [alone / whole for alone, whole in zip(bare, filled, strict=True)]
    print(f"{len(rows)} rows, {tokens:,} tokens; bare {tokens / statistics.median(bare):,.0f} tokens/s")
    print(f"precompute reaches {statistics.median(ratios):.2f} of the bare forward pass (median of {args.rounds})")


main()
