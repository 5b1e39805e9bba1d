from __future__ import annotations

import pytest
import torch

from prefopt.data.trees import grow
from prefopt.engine.logps import Scorer, TokenLogps
from tests.engine.rows import random_rows
from tests.models import ARCHITECTURES, tiny_model

ROWS = random_rows("pairs", 6)
SLOTS = [(row.prompt, completion) for row in ROWS for completion in row.completions]


def plain_logps(model):
    """Every completion alone: one unpadded row, the model's own forward and the whole vocabulary."""
    found = []
    for prompt, completion in SLOTS:
        logits = model(torch.tensor([prompt + completion.ids])).logits[0].log_softmax(-1)
        found += [
            logits[len(prompt) + place - 1, token].item()
            for place, (token, scored) in enumerate(zip(completion.ids, completion.scored, strict=True))
            if scored
        ]
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gemma2_sliding"])
@pytest.mark.parametrize("budget", [16, 40, 10**6])
@pytest.mark.parametrize("chunked_head", [True, False])
def test_trees_agree_with_plain_rows(architecture, budget, chunked_head):
    model = tiny_model(architecture).eval()
    trees = Scorer(model, chunked_head=chunked_head).score(grow(SLOTS, range(len(SLOTS))), tokens_per_microbatch=budget)
    with torch.no_grad():
        truth = TokenLogps(plain_logps(model), trees.lengths)
    torch.testing.assert_close(trees.values.double(), truth.values, rtol=0, atol=1e-4)
    torch.testing.assert_close(trees.sums.double(), truth.sums, rtol=1e-5, atol=0)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gemma2_sliding"])
def test_plain_layout_agrees_with_plain_rows(architecture):
    model = tiny_model(architecture).eval()
    padded = Scorer(model, packed=False).score(grow(SLOTS, range(len(SLOTS))), tokens_per_microbatch=10**6)
    with torch.no_grad():
        torch.testing.assert_close(padded.values.double(), plain_logps(model), rtol=0, atol=1e-4)


def test_the_head_sees_only_what_predicts_scored_tokens():
    model = tiny_model("llama")
    shapes = []
    handle = model.get_output_embeddings().register_forward_hook(lambda _, __, output: shapes.append(output.shape))
    Scorer(model, chunked_head=False).score(grow(SLOTS, range(len(SLOTS))), tokens_per_microbatch=10**6)
    handle.remove()
    assert shapes == [(sum(completion.num_scored for _, completion in SLOTS), 64)]


@pytest.mark.parametrize("chunked_head", [True, False])
def test_bfloat16_models_give_float32_logps(chunked_head):
    scorer = Scorer(tiny_model("llama", dtype=torch.bfloat16), chunked_head=chunked_head)
    logps = scorer.score(grow(SLOTS, range(len(SLOTS))), tokens_per_microbatch=10**6)
    assert logps.values.dtype == torch.float32


def test_sums_follow_the_lengths_of_the_slots():
    logps = TokenLogps(torch.tensor([-1.0, -2.0, -3.0, -4.0]), (1, 3))
    assert logps.sums.tolist() == [-1.0, -9.0]
    assert logps.offsets.tolist() == [0, 1, 4]
