from __future__ import annotations

import pytest
import torch

import prefopt
from prefopt.config import AdapterConfig, ModelConfig, load_config
from prefopt.data.trees import grow_rows
from prefopt.engine import loading
from prefopt.engine.accumulation import accumulate
from prefopt.engine.adapted import base_of, twin
from prefopt.engine.loading import load_model
from prefopt.engine.logps import Scorer
from prefopt.engine.parity import prove
from prefopt.errors import ConfigError, ModelError
from prefopt.reference.identity import identify
from tests.engine.rows import random_rows
from tests.models import tiny_model

ROWS = random_rows("pairs", 3)


@pytest.fixture
def folder(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_is_refused_before_anything_loads():
    with pytest.raises(ModelError, match="model.quantization = '4bit' needs a CUDA GPU, and there is none"):
        load_model(ModelConfig(name="org/name", quantization="4bit"))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.adapter={r: 4, merge: true}", "model.adapter.merge would add the adapter to weights rounded"),
        ("model.gguf_file=model.gguf", "model.quantization quantises weights that model.gguf_file holds already"),
    ],
)
def test_what_does_not_go_with_it_is_one_sentence(tmp_path, override, told):
    path = tmp_path / "run.yaml"
    path.write_text(
        "{model: {name: m, quantization: 4bit, adapter: {r: 4}}, data: {train: x}, loss: dpo, output_dir: o}"
    )
    with pytest.raises(ConfigError, match=told):
        load_config(path, [override])


def test_it_is_another_reference(folder):
    found = {identify(ModelConfig(name=str(folder), quantization=bits)).digest for bits in (None, "4bit", "8bit")}
    assert len(found) == 3


@pytest.mark.filterwarnings("ignore::UserWarning")  # of bitsandbytes on a CPU
def test_the_base_of_an_adapter_is_held_in_8_bits(folder, monkeypatch):
    """bitsandbytes computes this on a CPU as well, too slowly for more than a test."""
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("peft")
    monkeypatch.setattr(loading, "check_quantization", lambda _: None)
    settings = AdapterConfig(r=4, target_modules=["q_proj", "down_proj"])
    policy = load_model(ModelConfig(name=str(folder), quantization="8bit", adapter=settings))
    assert policy.model.layers[0].self_attn.q_proj.base_layer.weight.dtype == torch.int8
    assert all("lora" in name for name, own in policy.named_parameters() if own.requires_grad)
    with torch.no_grad():
        for own in policy.parameters():
            if own.requires_grad:
                own.add_(0.03)
    trees = grow_rows(ROWS)

    def logps(model):
        return Scorer(model).score(trees, tokens_per_microbatch=10**6).values

    plain = load_model(ModelConfig(name=str(folder)))
    gap = (logps(base_of(policy)) - logps(plain)).abs()
    assert 0 < gap.max() < 0.5
    assert torch.equal(logps(twin(policy)), logps(policy))
    scorer, _ = prove(policy, trees)
    accumulate(scorer, Scorer(base_of(policy)), prefopt.get_loss("dpo"), ROWS, tokens_per_microbatch=50)
    assert all(own.grad.isfinite().all() for own in policy.parameters() if own.requires_grad)
