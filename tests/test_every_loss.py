"""Every registered loss on a real small language model and real sentences."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama.modeling_llama import LlamaRMSNorm

import prefopt
from prefopt.config import parse_config
from prefopt.preparation import prepare
from prefopt.run import run
from prefopt.training.output import METRICS
from tests.engine.rows import kind_of
from tests.engine.test_accumulation import gradient, relative

pytestmark = pytest.mark.slow
REGISTRY = prefopt.load_registry()
every_loss = pytest.mark.parametrize("name", sorted(REGISTRY.losses))


def rows_for(loss, shared, num_rows):
    """Sentences as the loss reads them: pairs with scores, or rankings of grammatical, ungrammatical and reversed."""
    lines = (shared / "data" / "blimp_pairs.jsonl").read_text().splitlines()[::9][:num_rows]
    pairs = [json.loads(line) for line in lines]
    if kind_of(loss) == "pairs" or "labels" in loss.needs.rows:
        scored = {"chosen_score": 2.0, "rejected_score": 0.5} if loss.needs.scores else {}
        return [{"prompt": "", "chosen": row["chosen"], "rejected": row["rejected"], **scored} for row in pairs]
    return [
        {
            "prompt": "",
            "completions": [row["chosen"], row["rejected"], " ".join(words[::-1])],
            "scores": [2.0, 1.0, -1.0],
        }
        for row in pairs
        for words in [row["rejected"].split()]
    ]


def config_for(name, shared, folder):
    return parse_config(
        {
            "model": str(shared / "models" / "stories260K"),
            "data": {"train": "sentences", "evaluation": 20, "max_length": 128},
            "loss": name,
            "training": {"batch_size": 8, "learning_rate": 1e-4, "max_steps": 30, "tokens_per_microbatch": 256},
            "output_dir": str(folder),
        }
    )


@every_loss
def test_thirty_steps_give_finite_metrics(name, shared, tmp_path):
    loss = REGISTRY.loss(name)
    record = run(config_for(name, shared, tmp_path / "out"), loss, train=rows_for(loss, shared, 120))
    steps = [json.loads(line) for line in (tmp_path / "out" / METRICS).read_text().splitlines()]
    assert len(steps) == record["num_steps"] == 30
    assert all(math.isfinite(value) for step in steps for value in step.values())
    assert all(step["grad_norm"] > 0 for step in steps)


@every_loss
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 2e-5)], ids=str)
def test_gradient_does_not_depend_on_the_batch_cut(name, dtype, tolerance, shared, tmp_path):
    loss, folder = REGISTRY.loss(name), shared / "models" / "stories260K"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder, dtype=dtype) for _ in range(2))
    torch.manual_seed(0)
    for model in (policy, reference):
        in_its_own_precision(model)
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.02)  # so that the log-ratios are not zero
    rows = prepare(config_for(name, shared, tmp_path), loss, tokenizer, rows_for(loss, shared, 52)).train[:16]
    _, truth = gradient(policy, reference, loss, rows, tokens_per_microbatch=10**6)
    assert truth.norm() > 0
    for budget in (700, 300, 120):
        for batch in (rows, rows[::-1]):
            _, found = gradient(policy, reference, loss, batch, tokens_per_microbatch=budget)
            assert relative(found, truth) <= tolerance


def in_its_own_precision(model):
    """Llama's norm computes in float32 whatever the dtype, which alone puts 1e-7 between two passes in float64."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LlamaRMSNorm):
                norm = nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon, dtype=child.weight.dtype)
                norm.weight = child.weight
                setattr(parent, name, norm)
