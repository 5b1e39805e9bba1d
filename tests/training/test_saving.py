from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt.config import AdapterConfig, ModelConfig
from prefopt.data.trees import grow_rows
from prefopt.engine.loading import load_model, load_tokenizer
from prefopt.engine.logps import Scorer
from prefopt.errors import ModelError
from prefopt.training.saving import save_policy
from tests.engine.rows import random_rows

TREES = grow_rows(random_rows("pairs", 3))


def logps(model):
    return Scorer(model, chunked_head=False).score(TREES, tokens_per_microbatch=10**6).values


def adapted(folder, **settings):
    pytest.importorskip("peft")
    model = load_model(ModelConfig(name=str(folder), adapter=AdapterConfig(**settings)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.03 * torch.randn_like(parameter))
    return model


def test_a_model_is_written_whole(model_folder, tmp_path):
    model = load_model(ModelConfig(name=str(model_folder)))
    save_policy(model, load_tokenizer(ModelConfig(name=str(model_folder))), tmp_path / "a" / "b", merge=True)
    assert torch.equal(logps(AutoModelForCausalLM.from_pretrained(tmp_path / "a" / "b")), logps(model))
    assert AutoTokenizer.from_pretrained(tmp_path / "a" / "b").chat_template


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing:FutureWarning")  # peft asks by the old name
def test_an_adapter_is_written_alone_beside_the_name_of_its_base(model_folder, tmp_path):
    model = adapted(model_folder, r=4, modules_to_save=["lm_head"])
    save_policy(model, load_tokenizer(ModelConfig(name=str(model_folder))), tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    told = json.loads((tmp_path / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == str(model_folder)
    assert told["inference_mode"] is True
    assert all("lora_" in name or "lm_head" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    for loaded in (load_model(ModelConfig(name=str(tmp_path))), AutoModelForCausalLM.from_pretrained(tmp_path)):
        torch.testing.assert_close(logps(loaded), logps(model), rtol=0, atol=1e-6)
    import peft

    base = AutoModelForCausalLM.from_pretrained(model_folder)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path).get_base_model()
    torch.testing.assert_close(logps(loaded), logps(model), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "target_modules": "all-linear"},
        {"r": 4, "use_dora": True},
        {"r": 4, "target_modules": ["q_proj", "lm_head"]},
        {"r": 4, "modules_to_save": ["lm_head"]},
        {"r": 4, "trainable_token_indices": [3, 4]},
        {"peft_type": "ia3", "target_modules": ["q_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_merged_it_is_a_plain_model_with_the_log_probs_of_the_adapted_one(model_folder, tmp_path, settings, tied):
    source = model_folder
    if tied:
        source = tmp_path / "tied"
        model = load_model(ModelConfig(name=str(model_folder)))
        model.config.tie_word_embeddings = True
        model.tie_weights()
        model.save_pretrained(source)
    model = adapted(source, **settings)
    before, weights = logps(model), [own.clone() for own in model.parameters()]
    save_policy(model, load_tokenizer(ModelConfig(name=str(model_folder))), tmp_path / "out", merge=True)
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not any("lora" in name or "base_layer" in name for name, _ in loaded.named_parameters())
    torch.testing.assert_close(logps(loaded), before, rtol=0, atol=2e-4)
    assert torch.equal(logps(model), before)
    assert all(torch.equal(own, kept) for own, kept in zip(model.parameters(), weights, strict=True))
    assert logps(model).requires_grad is False
    assert any(own.requires_grad for own in model.parameters())


@pytest.mark.filterwarnings("ignore:Detected that the base layer has no bias term")  # of beft, and why
@pytest.mark.parametrize("kind", ["lily", "beft"])
def test_an_adapter_that_cannot_be_merged_is_refused_before_it_is_trained(model_folder, kind):
    with pytest.raises(ModelError, match=r"model\.adapter\.merge: peft cannot merge its .*; set it to false"):
        adapted(model_folder, peft_type=kind, target_modules=["q_proj"], merge=True)
