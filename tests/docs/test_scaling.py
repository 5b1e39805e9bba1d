"""The figures of docs/scaling.md are what `prefopt plan` says of models of those shapes."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from transformers import LlamaConfig

import prefopt
from prefopt.config import load_config
from prefopt.plan.forecast import forecast
from tests.data.tokenizers import tokenizer

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
SHAPES = {
    "7B": {"vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32}
    | {"num_attention_heads": 32, "num_key_value_heads": 32},
    "70B": {"vocab_size": 128_256, "hidden_size": 8192, "intermediate_size": 28_672, "num_hidden_layers": 80}
    | {"num_attention_heads": 64, "num_key_value_heads": 8},
}
LORA = ("model.adapter.r=16", "model.adapter.target_modules=all-linear")
# model, in words, overrides, processes
ROWS = [
    ("7B", "all weights, bfloat16, AdamW", (), 1),
    ("7B", "all weights, bfloat16, AdamW, FSDP2 on 8", (), 8),
    ("7B", "all weights, float32 with autocast, FSDP2 on 8", ("model.dtype=float32", "model.autocast=bfloat16"), 8),
    ("7B", "LoRA, another 7B as reference", (*LORA, "reference.model=OTHER"), 1),
    ("7B", "LoRA, adapter off as reference", LORA, 1),
    ("70B", "all weights, bfloat16, AdamW, FSDP2 on 16", (), 16),
    ("70B", "LoRA, adapter off as reference, FSDP2 on 4", LORA, 4),
]


def planned(folder, shape, overrides, processes):
    place = folder / shape
    words = tokenizer("without_bos", "chatml")
    for one in (place, folder / "other"):
        shaped = LlamaConfig(**SHAPES[shape], max_position_embeddings=8192, architectures=["LlamaForCausalLM"])
        shaped.save_pretrained(one)
        words.save_pretrained(one)
    draw = random.Random(0)

    def ids():
        return [draw.randrange(60) for _ in range(200)]

    rows = [{"prompt": ids(), "chosen": ids(), "rejected": ids()} for _ in range(64)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "model": {"name": str(place), "dtype": "bfloat16"},
        "data": {"train": str(folder / "rows.jsonl")},
        "loss": "dpo",
        "training": {"tokens_per_microbatch": 4096, "gradient_checkpointing": True, "max_steps": 100},
        "output_dir": str(folder / "out"),
    }
    (folder / "run.yaml").write_text(json.dumps(config))
    settings = load_config(
        folder / "run.yaml",
        [each.replace("OTHER", f"{{name: {folder / 'other'}, dtype: bfloat16}}") for each in overrides],
    )
    return forecast(settings, prefopt.get_loss("dpo"), processes=processes, sharding="fsdp", device="cuda")


def row(folder, shape, words, overrides, processes):
    """One line of the table."""
    found = planned(folder, shape, overrides, processes)
    live, stored = (sum(found.memory[way].values()) for way in ("live", "stored"))
    flops = found.flops["reference"] / sum(found.flops.values())
    return f"| {shape} | {words} | {live / 1e9:.0f} | {stored / 1e9:.0f} | {1 - stored / live:.0%} | {flops:.0%} |"


@pytest.mark.parametrize(
    ("shape", "words", "overrides", "processes"),
    [ROWS[0], *(pytest.param(*each, marks=pytest.mark.slow) for each in ROWS[1:])],
)
def test_the_table_is_what_plan_says(tmp_path, shape, words, overrides, processes):
    if overrides[:1] == LORA[:1]:
        pytest.importorskip("peft")
    assert row(tmp_path, shape, words, overrides, processes) in TEXT.splitlines()


def test_a_hundred_million_pairs_are_counted_from_the_measured_store():
    results = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "cpu-store-size.txt"
    pairs, _, size = re.search(r"^ *([\d,]+) +(50) +([\d.]+) GB", results.read_text(), re.MULTILINE).groups()
    gigabytes = float(size) / int(pairs.replace(",", "")) * 10**8
    assert f"{gigabytes:.0f} GB" in TEXT
