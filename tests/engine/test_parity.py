from __future__ import annotations

import pytest
import torch
from transformers import CohereConfig, CohereForCausalLM, GraniteConfig, GraniteForCausalLM

import prefopt
from prefopt.engine.assembly import Assembly
from prefopt.engine.parity import prove
from tests.engine.rows import random_rows
from tests.models import ARCHITECTURES, tiny_model

TREES = Assembly.of(random_rows("pairs", 4), prefopt.get_loss("simpo")).trees()
SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "opt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_models_with_full_attention_take_both_ways(architecture, dtype):
    # Weights as in a trained model: random large ones amplify the rounding of bfloat16 beyond any real model's.
    model = tiny_model(architecture, dtype=dtype)
    if dtype == torch.bfloat16:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.3) if parameter.dim() > 1 else None
    scorer, notes = prove(model, TREES)
    assert scorer.packed
    assert scorer.head is not None
    assert notes == []


def test_a_sliding_window_is_taken():
    scorer, notes = prove(tiny_model("gemma2_sliding"), TREES)
    assert scorer.packed
    assert notes == []


@pytest.mark.parametrize("architecture", ["mamba", "codegen"])
def test_what_does_not_take_trees_is_found_out(architecture):
    model = tiny_model(architecture)
    scorer, notes = prove(model, TREES)
    assert not scorer.packed
    assert scorer.head is not None
    assert "using plain rows" in notes[0]
    assert not (model.config._attn_implementation or "").startswith("trees")


def test_multipliers_of_the_logits_are_read_from_the_config():
    cohere = CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=0.25))
    granite = GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=8.0))
    for model, multiplier in ((cohere, 0.25), (granite, 0.125)):
        scorer, notes = prove(model, TREES)
        assert scorer.head.multiplier == multiplier
        assert notes == []


def test_an_unknown_treatment_of_logits_is_found_out():
    model = tiny_model("llama")
    model.register_forward_hook(lambda _, __, output: setattr(output, "logits", output.logits * 2))
    scorer, notes = prove(model, TREES)
    assert scorer.head is None
    assert "does more to its logits" in notes[0]


def test_a_head_that_is_no_plain_linear_layer_is_left_to_the_model():
    class Adapted(torch.nn.Linear):
        pass

    model = tiny_model("llama")
    adapted = Adapted(32, 64, bias=False)
    adapted.weight = model.lm_head.weight
    model.lm_head = adapted
    scorer, notes = prove(model, TREES)
    assert scorer.head is None
    assert "no plain linear layer" in notes[0]
