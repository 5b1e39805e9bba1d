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
    *("use_dora", "lora_bias", "fan_in_fan_out", "trainable_token_indices", "ensure_weight_tying", "task_type"),
}
# Other types add exactly nothing where this setting is true; what else of theirs is called init_* may change that.
_INIT: dict[str, str | None] = {"ia3": "init_ia3_weights", "ln_tuning": None} | dict.fromkeys(
    "beft boft c3a delora fourierft glora gralora hira lily loha lokr miss oft peanut randlora shira supertuning "
    "tinylora trainable_tokens vera waveft".split(),
    "init_weights",
)
# Whose default is another beginning.
_INIT_ELSEWHERE = {"c3a", "fourierft"}


class AdapterConfig(Section):
    """An adapter, trained in place of the weights.

    Keys beyond `path` and `merge` are peft's: `peft_type` (lora, or ia3, loha, oft, vera and the rest), and what the
    config of that type takes: r, lora_alpha, target_modules, modules_to_save, ...
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
        settings = self.settings
        kind = str(settings.pop("peft_type", "lora")).lower()
        if kind == "lora":
            init = settings.pop("init_lora_weights", True)
            others = sorted(set(settings) - _BEGIN_AS_BASE)
            return (*(() if init is True or init == "gaussian" else ("init_lora_weights",)), *others)
        if kind not in _INIT:
            return ("peft_type",)
        own = _INIT[kind]
        begins = own is None or settings.pop(own, kind not in _INIT_ELSEWHERE) is True
        others = sorted(name for name in settings if name.startswith("init"))
        return (*(() if begins else (str(own),)), *others)

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
    """Precision of the products while the weights stay in float32, in training and scoring alike; float16 scales the
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
    """An adapter, LoRA or another of peft's, to train in place of the weights (needs prefopt[peft])."""

    @pydantic.model_validator(mode="after")
    def _fit_together(self) -> ModelConfig:
        if self.autocast is not None and self.dtype != "float32":
            raise ValueError(
                f"model.autocast has no effect on weights in {self.dtype}: set model.dtype to 'float32', or remove it"
            )
        if self.quantization is not None and self.gguf_file is not None:
            raise ValueError("model.quantization quantises weights that model.gguf_file holds already; remove one")
        if self.quantization is not None and self.adapter is not None and self.adapter.merge:
            raise ValueError(
                "model.adapter.merge would add the adapter to weights rounded to so few bits (model.quantization); "
                "set it to false and save the adapter alone"
            )
        return self
