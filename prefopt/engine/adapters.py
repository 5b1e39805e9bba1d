"""LoRA adapters through peft, put into a loaded model in place."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME

from prefopt.config import AdapterConfig, ModelConfig
from prefopt.engine.places import check_place, model_file
from prefopt.errors import ConfigError, ModelError, unknown_name


class Adapter:
    """The adapter a config asks for, checked before any model loads."""

    def __init__(self, settings: AdapterConfig) -> None:
        """Check the settings.

        Args:
            settings: the folder of an adapter, or what peft builds a new one from.

        Raises:
            ConfigError: peft is not installed, knows no such setting, or takes no such value.
            ModelError: the folder does not exist.
        """
        self._settings = settings
        try:
            import peft
        except ImportError as error:
            raise ConfigError("model.adapter needs peft; pip install 'prefopt[peft]'") from error
        if settings.path is not None:
            check_place(settings.path, "adapter")
            return
        known = [field.name for field in dataclasses.fields(peft.LoraConfig) if field.init]
        for name in settings.settings:
            if name not in known:
                raise ConfigError(unknown_name("key of model.adapter", name, known))
        # No dropout, for the same reason as in the model itself: two passes over a row must agree.
        values = {"lora_dropout": 0.0, **settings.settings}
        if values["lora_dropout"]:
            raise ConfigError("model.adapter.lora_dropout must be 0: a policy must give the same log-probs twice")
        try:
            self._lora = peft.LoraConfig(**values)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model.adapter: {error}") from error

    def attach(self, model: PreTrainedModel, seed: int) -> None:
        """Put the adapter into the model; from then on it alone is trained.

        Raises:
            ModelError: the adapter does not fit the model, or its folder holds none.
        """
        add: Any = model.add_adapter
        load: Any = model.load_adapter
        try:
            if self._settings.path is None:
                with torch.random.fork_rng():
                    torch.manual_seed(seed)
                    add(self._lora)
            else:
                load(self._settings.path, is_trainable=True)
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0  # of an adapter that was trained with it
        except Exception as error:  # peft and transformers raise their own
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"model.adapter cannot be put into {type(model).__name__}: {reason}") from error


def spelled_out(model: ModelConfig) -> ModelConfig:
    """A model with its base and its adapter named apart: what peft has saved stands for its base with that adapter.

    Args:
        model: as a config names it.

    Raises:
        ModelError: the adapter names no base, or would have to take a second adapter.
    """
    path = None if model.gguf_file is not None else model_file(model, ADAPTER_CONFIG_NAME)
    if path is None:
        return model
    if model.adapter is not None:
        raise ModelError(
            f"model {model.name!r} is an adapter and takes no model.adapter; name its base, or leave it out"
        )
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        base, revision = settings["base_model_name_or_path"], settings.get("revision")
    except (ValueError, LookupError, TypeError, AttributeError):
        base = None
    if not isinstance(base, str):
        raise ModelError(f"adapter {model.name!r} names no base model (base_model_name_or_path in {path.name})")
    model_file(model, ADAPTER_SAFE_WEIGHTS_NAME)  # from the Hub it would otherwise not be in that folder
    own = AdapterConfig(path=str(path.parent))
    return model.model_copy(update={"name": base, "revision": revision, "adapter": own})
