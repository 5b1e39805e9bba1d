"""The settings in docs/adapters.md are accepted, put into a model and trained as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

import prefopt
from prefopt.config import AdapterConfig, ModelConfig, parse_config
from prefopt.data.trees import grow_rows
from prefopt.engine.accumulation import accumulate
from prefopt.engine.adapters import Adapter
from prefopt.engine.loading import load_model
from prefopt.engine.logps import Scorer
from prefopt.engine.parity import prove
from prefopt.reference.live import Kind
from tests.engine.rows import random_rows
from tests.models import tiny_model

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "adapters.md").read_text(encoding="utf-8")
ROWS = random_rows("pairs", 3)
REST = {"data": {"train": "rows.jsonl"}, "loss": "dpo", "output_dir": "out"}


def block(name):
    (text,) = re.findall(rf"<!-- tested: {name} -->\n```yaml\n(.*?)```", TEXT, re.DOTALL)
    return yaml.safe_load(text)


def test_the_config_is_accepted():
    pytest.importorskip("peft")
    Adapter(parse_config(block("config") | REST).model.adapter)


@pytest.mark.parametrize("settings", block("adapters"), ids=str)
def test_an_adapter_is_trained(tmp_path, settings):
    pytest.importorskip("peft")
    tiny_model("llama").save_pretrained(tmp_path)
    policy = load_model(ModelConfig(name=str(tmp_path), adapter=AdapterConfig(**settings)))
    scorer, notes = prove(policy, grow_rows(ROWS))
    assert bool(notes) == ("lm_head" in settings.get("target_modules", ()))
    accumulate(scorer, Scorer(tiny_model("llama")), prefopt.get_loss("dpo"), ROWS, tokens_per_microbatch=60)
    assert any(own.grad is not None and own.grad.norm() > 0 for own in policy.parameters())


@pytest.mark.parametrize("settings", block("precision"), ids=str)
def test_a_precision_is_accepted_and_loaded(tmp_path, settings):
    model = parse_config({"model": {"name": str(tmp_path), **settings}, **REST}).model
    if "adapter" in settings:
        pytest.importorskip("peft")
    if model.quantization is None:
        tiny_model("llama").save_pretrained(tmp_path)
        assert load_model(model).dtype == getattr(torch, model.dtype)


def test_every_type_of_peft_is_named():
    """Those it takes and those it refuses, but for the ones of virtual tokens, which are refused as one."""
    peft = pytest.importorskip("peft")
    virtual = {
        kind.value.lower()
        for kind, config in peft.PEFT_TYPE_TO_CONFIG_MAPPING.items()
        if issubclass(config, peft.PromptLearningConfig) or kind.value == "ADAPTION_PROMPT"
    }
    for kind in {kind.value.lower() for kind in peft.PEFT_TYPE_TO_CONFIG_MAPPING} - virtual - {"lora"}:
        assert re.search(rf"\b{kind}\b", TEXT), kind


def test_every_kind_of_reference_is_named():
    for kind in Kind:
        assert f"`{kind.value}`" in TEXT
