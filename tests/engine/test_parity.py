from __future__ import annotations

import random

import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    CohereConfig,
    CohereForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

import prefopt
from prefopt.data.row import Completion
from prefopt.data.trees import Tree
from prefopt.engine.assembly import Assembly
from prefopt.engine.parity import prove
from prefopt.errors import ModelError
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


def test_attention_sinks_are_found_out():
    model = tiny_model("llama")
    for layer in model.model.layers:  # as GPT-OSS hands them; plain attention does not read them
        layer.self_attn.register_forward_pre_hook(
            lambda _, args, kwargs: (args, {**kwargs, "s_aux": torch.zeros(4)}), with_kwargs=True
        )
    scorer, notes = prove(model, TREES)
    assert not scorer.packed
    assert "cannot take packed trees (ValueError: attention over trees does not know s_aux)" in notes[0]


def test_a_window_known_to_the_mask_alone_is_found_out_beyond_the_first_tokens_of_a_completion():
    """Plain rows attend through a window of 40 that the packed road is not told of."""
    model = tiny_model("gemma2_sliding")
    model.config.sliding_window = 40
    for layer in model.model.layers:
        layer.self_attn.sliding_window = None
    draw = random.Random(0)
    ids = tuple(draw.randrange(64) for _ in range(70))
    long = Tree((1, 2, 3), ((0, Completion(ids, (True,) * 70)), (1, Completion(ids[::-1], (True,) * 70))))
    scorer, notes = prove(model, [long])
    assert not scorer.packed
    assert "gives other log-probs on packed trees" in notes[0]


def test_a_model_that_sees_what_follows_is_refused():
    model = BertLMHeadModel(BertConfig(**{**SHAPE, "max_position_embeddings": 64})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with pytest.raises(ModelError, match="sees what follows"):
        prove(model, TREES)


def test_a_model_that_cannot_run_is_one_sentence():
    model = tiny_model("llama")
    model.model.layers[0].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ModelError, match="cannot be run on a row of the data .ZeroDivisionError"):
        prove(model, TREES)


def test_positions_that_depend_on_the_longest_row_of_a_batch_are_refused():
    """LongRoPE takes other frequencies for every row as soon as one of them is long."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "original_max_position_embeddings": 20}
    config = LlamaConfig(**SHAPE, rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, **factors})
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3) if parameter.dim() > 1 else None
    short = Tree((1, 2, 3), ((0, Completion((4, 5), (True, True))),))
    long = Tree(tuple(range(30)), ((1, Completion((4, 5), (True, True))),))
    with pytest.raises(ModelError, match="rows of other lengths"):
        prove(model, [short, long])
