"""The rows of a comparison, and one run of a side in a process of its own."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer

from prefopt.data.load import load_rows

HERE = Path(__file__).parent


def add_arguments(parser):
    parser.add_argument("--model", required=True, help="folder or Hub id")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--rows", help="a file of pairs")
    source.add_argument("--random", nargs=2, type=int, metavar=("PROMPT", "COMPLETION"), help="random ids, this long")
    parser.add_argument("--pairs-per-prompt", type=int, default=1, help="of random rows: as in rankings made pairs")
    parser.add_argument("--max-prompt-tokens", type=int, default=512, help="prompts lose tokens on the left")
    parser.add_argument("--batch-size", type=int, default=4, help="pairs of an optimiser step")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2, help="runs of each way, alternating")
    parser.add_argument("--tokens-per-microbatch", type=int, default=1024, help="prefopt's memory knob")
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--attention", default=None, help="prefopt's: sdpa, flex_attention, ...; TRL takes sdpa")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--record", type=Path, help="write the result here, as JSON")


def pairs(args):
    """Pairs of token ids for every step, drawn with a fixed seed."""
    number = args.batch_size * args.steps
    draw = random.Random(0)
    if args.random:
        prompt, completion = args.random
        vocabulary = AutoConfig.from_pretrained(args.model).get_text_config().vocab_size

        def ids(length):
            return [draw.randrange(vocabulary) for _ in range(length)]

        rows = []
        for index in range(number):
            shared = index % args.pairs_per_prompt
            first = rows[-1]["prompt_ids"] if shared else ids(prompt)
            rows.append({"prompt_ids": first, "chosen_ids": ids(completion), "rejected_ids": ids(completion)})
        return rows
    rows, _ = load_rows(args.rows, AutoTokenizer.from_pretrained(args.model), max_length=10**6)
    return [
        {
            "prompt_ids": list(row.prompt[-args.max_prompt_tokens :]),
            "chosen_ids": list(row.completions[0].ids),
            "rejected_ids": list(row.completions[1].ids),
        }
        for row in draw.sample(rows, number)
    ]


def run(library, rows, args, **settings):
    """What one run of `trl` or `prefopt` measured.

    Args:
        library: which side.
        rows: file of token ids.
        args: the arguments of the comparison.
        settings: what this run does differently.
    """
    job = {**vars(args), "rows": str(rows), "record": None, **settings}
    threads = {"OMP_NUM_THREADS": str(args.threads), "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
    if args.device == "cpu":
        threads["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, "-W", "ignore", str(HERE / f"{library}_side.py"), json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads})
    if done.returncode:
        sys.exit(f"{library} {settings} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
