"""The section `model`."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from prefopt.config.place import Place
from prefopt.section import Section

# Settings of peft's LoraConfig under which a new adapter adds nothing until it is trained.
_BEGIN_AS_BASE = {
    *("r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "target_parameters", "bias"),
    *("rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern", "modules_to_save", "use_rslora"),
    *("use_dora", "lora_bias", "fan_in_fan_out", "trainable_token_indices", "peft_type", "task_type"),
}


class AdapterConfig(Section):
    """A LoRA adapter, trained in place of the weights.

    Keys beyond `path` are those of peft's LoraConfig: r, lora_alpha, target_modules and the rest.
    """

    model_config = pydantic.ConfigDict(extra="allow")

    path: Place | None = None
    """Folder of an adapter to continue from; absent: a new one, which begins as the base model."""
    merge: bool = False
    """Save the trained model with the adapter added to its weights, instead of the adapter alone."""

    @property
    def settings(self) -> dict[str, Any]:
        """What peft builds a new adapter from."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def beyond_base(self) -> tuple[str, ...]:
        """The settings of a new adapter that may make it begin otherwise than its base."""
        init = self.settings.get("init_lora_weights", True)
        others = set(self.settings) - _BEGIN_AS_BASE - {"init_lora_weights"}
        return (*(() if init is True or init == "gaussian" else ("init_lora_weights",)), *sorted(others))

    @property
    def begins_as_base(self) -> bool:
        """Whether the adapted model starts with the log-probs of its base."""
        return self.path is None and not self.beyond_base

    @pydantic.model_validator(mode="after")
    def _go_together(self) -> AdapterConfig:
        if self.path is not None and self.settings:
            raise ValueError(
                f"model.adapter.{next(iter(self.settings))} has no effect beside model.adapter.path, whose adapter "
                "has its own settings; remove one of them"
            )
        return self


class ModelConfig(Section):
    """Which model, and how it is held in memory."""

    name: Place
    """A folder in Hugging Face format, or a Hub id."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    dtype: Literal["float64", "float32", "bfloat16", "float16"] = "float32"
    """Precision of the weights and, without `autocast`, of every product."""
    autocast: Literal["bfloat16", "float16"] | None = None
    """Precision of the products while the weights stay in `dtype`, for policy and reference alike; float16 scales the
    loss so that small gradients are not lost."""
    quantization: Literal["4bit", "8bit"] | None = None
    """Hold the base of an adapter in so many bits (needs prefopt[bitsandbytes])."""
    gguf_file: str | None = None
    """A GGUF file inside `name` to read the weights and the tokenizer from."""
    attention: Literal["sdpa", "eager", "flex_attention"] | None = None
    """The attention of transformers for plain rows; null: the fastest it has for the model. Packed trees take SDPA tree
    by tree, or with flex_attention (it needs a CUDA GPU) one block mask over the whole row, except under soft caps and
    sliding windows."""
    adapter: AdapterConfig | None = None
    """A LoRA adapter to train in place of the weights (needs prefopt[peft])."""
