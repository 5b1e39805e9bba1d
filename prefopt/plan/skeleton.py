"""The model of a config without its weights: every parameter by shape and precision alone."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME

from prefopt.config import ModelConfig
from prefopt.engine.adapters import Adapter, spelled_out
from prefopt.engine.loading import turn_dropout_off
from prefopt.engine.logps import Scorer
from prefopt.engine.places import check_place, model_file
from prefopt.errors import ConfigError, ModelError


class Outline(Scorer):
    """A scorer on the meta device, which knows no autocast: `prefopt.plan.kernels` takes products as it would."""

    def _products(self) -> AbstractContextManager[Any]:
        return nullcontext()


def skeleton(model: ModelConfig) -> PreTrainedModel:
    """The model on the meta device, adapter included; of its files only the configs are read.

    Args:
        model: where it is, its precision and its adapter.

    Raises:
        ConfigError: peft is not installed, or a setting of the adapter is not one of its.
        ModelError: there is no config of a causal language model at that place.
    """
    check_place(model.name)
    model = spelled_out(model)
    source: dict[str, Any] = {"revision": model.revision, "trust_remote_code": False}
    if model.gguf_file is not None:
        source["gguf_file"] = model.gguf_file
    try:
        config = AutoConfig.from_pretrained(model.name, **source)
        turn_dropout_off(config)
        build: Any = AutoModelForCausalLM.from_config  # its declared type is older than its arguments
        with torch.device("meta"):
            made = build(config, dtype=getattr(torch, model.dtype), attn_implementation=_attention(model))
    except Exception as error:  # transformers, the Hub and HTTP raise their own
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"no config of a causal language model could be read from {model.name!r}: {reason}") from error
    assert isinstance(made, PreTrainedModel)
    if model.adapter is not None:
        with torch.device("meta"):
            if model.adapter.path is None:
                Adapter(model.adapter).attach(made, 0)
            else:
                _attach_saved(made, model.adapter.path)
    made.train(False)
    return made


def _attention(model: ModelConfig) -> str | None:
    # Packed trees take SDPA; FlexAttention has no kernel on the meta device and keeps the same tensors.
    return "sdpa" if model.attention == "flex_attention" else model.attention


def _attach_saved(model: PreTrainedModel, path: str) -> None:
    """An adapter of the same shape as the one in the folder."""
    try:
        from peft import PeftConfig
    except ImportError as error:
        raise ConfigError("model.adapter needs peft; pip install 'prefopt[peft]'") from error
    check_place(path, "adapter")
    if model_file(ModelConfig(name=path), ADAPTER_CONFIG_NAME) is None:
        raise ModelError(f"adapter {path!r} has no {ADAPTER_CONFIG_NAME}; it is no folder that peft has saved")
    settings = PeftConfig.from_pretrained(path)
    settings.inference_mode = False
    add: Any = model.add_adapter
    add(settings)
