"""What a stored reference saves: memory by part and at the peak, reference live against stored.

    python benchmarks/performance/reference_memory.py

A random Llama of 300 million parameters, 4 pairs a step, short enough that weights outweigh activations as they do in
large models; `--tokens 64` shows what longer rows change. Every run is a process of its own, and the store is filled by
another one before. Peak: the most the process held, above what it held before the model was loaded. Arithmetic: bytes a
parameter of weights, gradients, optimiser state and reference.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from measures import peak_bytes, resident_bytes
from rich import box
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

import prefopt
from prefopt.config import AdapterConfig, ModelConfig, TrainingConfig
from prefopt.data.row import Completion, Row
from prefopt.engine.loading import load_model
from prefopt.engine.logps import Scorer
from prefopt.evaluation.rewards import HeldOut
from prefopt.reference.identity import identify
from prefopt.reference.reading import StoredReference
from prefopt.reference.scoring import fill
from prefopt.reference.store import Store
from prefopt.training.trainer import Trainer

# name -> what is trained and how, the precision of the reference, and bytes a parameter of policy, gradient, state.
CASES = {
    "AdamW, reference in bfloat16": {"optimizer": "adamw", "reference": "bfloat16", "bytes": (4, 4, 8)},
    "AdamW": {"optimizer": "adamw", "reference": "float32", "bytes": (4, 4, 8)},
    "RMSprop": {"optimizer": "rmsprop", "reference": "float32", "bytes": (4, 4, 4)},
    "LoRA (r 16), separate reference": {"lora": True, "reference": "float32", "bytes": (4, 0, 0)},
    "scoring held-out rows": {"scoring": True, "reference": "float32", "bytes": (4, 0, 0)},
}
BUDGET = 1024


def rows(tokens):
    draw = random.Random(0)

    def ids(length):
        return tuple(draw.randrange(32_000) for _ in range(length))

    def completion():
        return Completion(ids(tokens), (True,) * tokens)

    return [Row("pairs", "random", number, ids(tokens), (completion(), completion())) for number in range(1, 13)]


def write_model(folder, small):
    torch.manual_seed(0)
    shape = (2, 64, 128) if small else (16, 1024, 4096)
    config = LlamaConfig(
        vocab_size=32_000,
        num_hidden_layers=shape[0],
        hidden_size=shape[1],
        intermediate_size=shape[2],
        num_attention_heads=4 if small else 16,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def settings_of(job):
    policy = ModelConfig(name=job["model"])
    if job["case"].get("lora"):
        policy = ModelConfig(name=job["model"], adapter=AdapterConfig(r=16, target_modules="all-linear"))
    return policy, ModelConfig(name=job["model"], dtype=job["case"]["reference"])


def store_of(job, settings):
    store = Store(job["store"], identify(settings).digest)
    store.check_writable()
    return store


def precompute(job):
    _, settings = settings_of(job)
    scorer = Scorer(load_model(settings).to(job["device"]))
    fill(store_of(job, settings), rows(job["tokens"]), lambda _: scorer, tokens_per_microbatch=BUDGET, made_by={})
    print("{}")


def held(parameters):
    return sum(each.numel() * each.element_size() for each in parameters)


def measure(job):
    before = resident_bytes() if job["device"] == "cpu" else 0
    policy_settings, reference_settings = settings_of(job)
    policy = Scorer(load_model(policy_settings).to(job["device"]))
    reference = StoredReference(store_of(job, reference_settings), device=policy.device)
    found = {"weights": held(policy.parameters()), "reference": 0, "state": 0, "gradients": 0}
    if job["mode"] == "live":
        reference = Scorer(load_model(reference_settings).to(job["device"])).requires_grad_(False)
        found["reference"] = held(reference.parameters())
    loss, data = prefopt.get_loss("dpo"), rows(job["tokens"])
    if job["case"].get("scoring"):
        part = HeldOut(data, loss, tokens_per_microbatch=BUDGET)
        part.score_reference(reference)
        part.evaluate(policy)
    else:
        training = TrainingConfig(
            batch_size=4,
            tokens_per_microbatch=BUDGET,
            learning_rate=1e-6,
            scheduler="constant",
            optimizer=job["case"].get("optimizer", "adamw"),
        )
        trainer = Trainer(policy, reference, loss, data, training)
        trainer.run(lambda _: None)
        states = trainer._optimizer.state.values()
        found["state"] = held(each for state in states for each in state.values() if isinstance(each, torch.Tensor))
        found["gradients"] = held(each for each in policy.parameters() if each.requires_grad)
    print(json.dumps({**found, "peak": peak_bytes() - before}))


def apart(job):
    environment = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count()), "TOKENIZERS_PARALLELISM": "false"}
    if job["device"] == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, "-W", "ignore", __file__, "--job", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{job} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tokens", type=int, default=16, help="of a prompt, and of a completion")
    parser.add_argument("--small", action="store_true", help="a model too small to tell anything, to try the script on")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        (precompute if args.job["mode"] == "fill" else measure)(args.job)
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in (
        "",
        "weights",
        "grads",
        "state",
        "reference",
        "other",
        "peak live",
        "stored",
        "saved",
        "by arithmetic",
    ):
        table.add_column(column, justify="right" if column else "left")
    with tempfile.TemporaryDirectory() as folder:
        model, store = str(Path(folder, "model")), str(Path(folder, "store"))
        write_model(model, args.small)
        for name, case in CASES.items():
            job = {"model": model, "store": store, "case": case, "device": args.device, "tokens": args.tokens}
            apart({**job, "mode": "fill"})
            live, stored = (apart({**job, "mode": mode}) for mode in ("live", "stored"))
            parts = ("weights", "gradients", "state", "reference")
            own = 2 if case["reference"] == "bfloat16" else 4
            table.add_row(
                name,
                *(f"{live[part] / 1e9:.2f}" for part in parts),
                f"{(live['peak'] - sum(live[part] for part in parts)) / 1e9:.2f}",
                f"{live['peak'] / 1e9:.2f}",
                f"{stored['peak'] / 1e9:.2f}",
                f"{1 - stored['peak'] / live['peak']:.0%}",
                f"{own / (own + sum(case['bytes'])):.0%}",
            )
    Console(width=110).print(table)
    print("GB; other: activations and what the allocator holds besides, with the reference live")


main()
