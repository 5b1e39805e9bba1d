"""What `prefopt plan` says a run will hold, against what `prefopt train` then holds: peak memory of six runs.

    python benchmarks/performance/plan.py

Random models of 60 to 80 million parameters, so that the model outweighs the process; each plan and each run is a
process of its own, as a user starts it.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

NUM_ROWS = 8


def write_model(folder, kind, small):
    if kind == "gpt2":
        width = (64, 2) if small else (768, 8)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=8000, n_embd=width[0], n_layer=width[1], n_head=width[0] // 64))
    else:
        width, layers = (64, 2) if small else (512 if kind == "large vocabulary" else 768, 8)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=100_000 if kind == "large vocabulary" else 8000,
                hidden_size=width,
                intermediate_size=width * 8 // 3 // 8 * 8,
                num_hidden_layers=layers,
                num_attention_heads=width // 64,
                max_position_embeddings=4096,
                tie_word_embeddings=kind != "llama",
            )
        )
    model.save_pretrained(folder)
    words = {"<s>": 0, "</s>": 1} | {f"w{number}": number for number in range(2, 8000)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<s>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)


def write_rows(path, prompt, completion):
    draw = random.Random(0)

    def ids(length):
        return [draw.randrange(2, 8000) for _ in range(draw.randint(length // 2, length))]

    rows = [{"prompt": ids(prompt), "chosen": ids(completion), "rejected": ids(completion)} for _ in range(NUM_ROWS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


# name -> model, tokens of prompt and completion, settings
CASES = {
    "Llama, AdamW, live": ("llama", (200, 80), []),
    "Llama, AdamW, stored": ("llama", (200, 80), ["reference.mode=cached"]),
    "Llama, LoRA r 16, stored": ("llama", (200, 80), ["model.adapter.r=16", "reference.mode=cached"]),
    "Llama, checkpointing, long prompts": (
        "llama",
        (900, 60),
        ["reference.mode=cached", "training.gradient_checkpointing=true", "training.optimizer=rmsprop"],
    ),
    "GPT-2, bfloat16, SGD, live": ("gpt2", (200, 80), ["model.dtype=bfloat16", "training.optimizer=sgd"]),
    "vocabulary of 100,000, KTO": ("large vocabulary", (200, 80), ["loss=kto", "reference.mode=cached"]),
}


def prefopt(*arguments):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "ignore", "-m", "prefopt", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="models too small to tell anything, to try the script on")
    args = parser.parse_args()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("", "planned", "measured", "ratio"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number, (name, (kind, lengths, settings)) in enumerate(CASES.items()):
            model = folder / kind
            if not model.exists():
                write_model(model, kind, args.small)
            write_rows(folder / "rows.jsonl", *lengths)
            config = {
                "model": str(model),
                "data": {"train": str(folder / "rows.jsonl"), "max_length": 1024},
                "loss": "dpo",
                "training": {"batch_size": 4, "tokens_per_microbatch": 1024, "max_steps": 2},
                "output_dir": str(folder / f"out{number}"),
            }
            (folder / "run.yaml").write_text(json.dumps(config))
            cache = [f"reference.cache_dir={folder / 'store'}"] if "reference.mode=cached" in settings else []
            planned = json.loads(prefopt("plan", folder / "run.yaml", *settings, *cache, "--device", "cpu", "--json"))
            prefopt("train", folder / "run.yaml", *settings, *cache)
            run = json.loads((folder / f"out{number}" / "run.json").read_text())
            way = "stored" if cache else "live"
            expected = planned["memory_bytes"][way]["peak"]
            measured = run["peak_memory_bytes"]["process"]
            row = (name, f"{expected / 1e9:.2f}", f"{measured / 1e9:.2f}", f"{expected / measured:.2f}")
            print(*row, sep="  ", file=sys.stderr, flush=True)
            table.add_row(*row)
    Console(width=100).print(table)
    print("peak memory of the process, GB")


main()
