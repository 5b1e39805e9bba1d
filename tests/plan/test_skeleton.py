from __future__ import annotations

import pytest

from prefopt.config import AdapterConfig, ModelConfig
from prefopt.engine.loading import load_model
from prefopt.errors import ModelError
from prefopt.plan.skeleton import skeleton


@pytest.mark.parametrize("adapter", [None, AdapterConfig(r=4), AdapterConfig(r=2, target_modules="all-linear")])
def test_parameters_are_those_of_the_loaded_model(model_folder, adapter):
    if adapter is not None:
        pytest.importorskip("peft")
    settings = ModelConfig(name=str(model_folder), dtype="bfloat16", adapter=adapter)
    outline, loaded = skeleton(settings), load_model(settings)
    shapes = {name: (each.shape, each.dtype, each.requires_grad) for name, each in loaded.named_parameters()}
    assert {name: (each.shape, each.dtype, each.requires_grad) for name, each in outline.named_parameters()} == shapes
    assert all(each.is_meta for each in outline.parameters())


def test_a_saved_adapter_has_the_shape_of_its_folder(model_folder, tmp_path):
    pytest.importorskip("peft")
    load_model(ModelConfig(name=str(model_folder), adapter=AdapterConfig(r=4))).save_pretrained(tmp_path / "adapter")
    outline = skeleton(ModelConfig(name=str(model_folder), adapter=AdapterConfig(path=str(tmp_path / "adapter"))))
    assert sum(each.requires_grad for each in outline.parameters()) > 0
    assert {each.shape[0] for name, each in outline.named_parameters() if "lora_A" in name} == {4}


def test_what_is_no_model_is_said(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="no config of a causal language model"):
        skeleton(ModelConfig(name=str(tmp_path)))
