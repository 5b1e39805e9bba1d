"""Models and tokenizers in Hugging Face format, from a folder, a GGUF file in it, or the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prefopt.config import ModelConfig
from prefopt.engine.adapters import Adapter, spelled_out
from prefopt.engine.places import check_place
from prefopt.engine.quantization import check_quantization, quantized
from prefopt.errors import ModelError


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer.

    Raises:
        ModelError: there is none at that place.
    """
    check_place(model.name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model.name, **_source(model))
    except Exception as error:  # transformers, safetensors, the Hub and HTTP raise their own
        raise ModelError(_cannot_load("tokenizer", model, error)) from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def load_model(model: ModelConfig, *, seed: int = 0) -> PreTrainedModel:
    """The causal language model in evaluation mode, with every dropout off should a trainer set another mode.

    Randomness would make the log-probs of two passes over the same rows differ, and a policy differ from its own copy.

    Args:
        model: where it is, how it is held in memory, and its adapter.
        seed: of a new adapter's weights.

    Raises:
        ConfigError: a setting of the adapter is not one of peft's, or bitsandbytes is not installed.
        ModelError: there is no causal language model at that place, its weights are not complete and finite, or the
            attention or the quantisation asked for has no GPU to run on.
    """
    check_place(model.name)
    model = spelled_out(model)
    if model.attention == "flex_attention" and not torch.cuda.is_available():
        raise ModelError("model.attention = 'flex_attention' needs a CUDA GPU, and there is none; leave it out")
    check_quantization(model)
    adapter = None if model.adapter is None else Adapter(model.adapter)
    source = _source(model)
    from_pretrained: Any = AutoModelForCausalLM.from_pretrained  # its declared type leaves out the loading info
    try:
        config = AutoConfig.from_pretrained(model.name, **source)
        turn_dropout_off(config)
        loaded, info = from_pretrained(
            model.name,
            config=config,
            dtype=getattr(torch, model.dtype),
            attn_implementation=model.attention,
            output_loading_info=True,
            **quantized(model),
            **source,
        )
    except Exception as error:  # transformers, safetensors, the Hub and HTTP raise their own
        raise ModelError(_cannot_load("model", model, error)) from error
    assert isinstance(loaded, PreTrainedModel)
    _check_weights(loaded, sorted(info["missing_keys"]), model.name)
    if model.gguf_file is not None:
        # In memory the weights are plain again; these marks describe the file and would forbid saving.
        del loaded.hf_quantizer, loaded.config.quantization_config
    if model.quantization is not None:
        loaded.requires_grad_(False)
    if adapter is not None:
        adapter.attach(loaded, seed, revision=model.revision)
    loaded.train(False)
    return loaded


def turn_dropout_off(config: PretrainedConfig) -> None:
    """Set every rate of dropout in a model's config to 0."""
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        for name, value in part.to_dict().items():
            if isinstance(value, float) and ("dropout" in name or name.endswith(("_drop", "_pdrop"))):
                setattr(part, name, 0.0)


def _check_weights(loaded: PreTrainedModel, missing: list[str], name: str) -> None:
    if missing:
        raise ModelError(
            f"model {name!r} lacks {len(missing)} weights of a {type(loaded).__name__}, {missing[0]!r} first, which "
            "would be random; it is no trained causal language model"
        )
    for weight, values in loaded.named_parameters():
        if values.is_floating_point() and not values.isfinite().all():
            raise ModelError(f"model {name!r}: weight {weight!r} holds NaN or infinite values")


def check_fit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, num_tokens: int) -> None:
    """Refuse token ids the model has no embedding for, and rows longer than it was made for.

    Args:
        model: the policy or the reference.
        tokenizer: the policy's.
        name: the model's name, for the message.
        num_tokens: of the longest prompt with one completion.

    Raises:
        ModelError: the vocabulary is larger than the model's, or a row exceeds its positions.
    """
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(limit, int) and 0 < limit < num_tokens:
        raise ModelError(
            f"model {name!r} has {limit} positions, but the longest row has {num_tokens} tokens; set data.max_length "
            f"to {limit} or less"
        )
    num_embeddings = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[index]
    if len(tokenizer) > num_embeddings:
        raise ModelError(
            f"the tokenizer of {name!r} has {len(tokenizer)} tokens, but its model embeds only {num_embeddings}; "
            "use the tokenizer the model was trained with"
        )


def _source(model: ModelConfig) -> dict[str, Any]:
    # Without a word on remote code transformers asks on the terminal, and runs it on a "y".
    found: dict[str, Any] = {"revision": model.revision, "trust_remote_code": False}
    return found if model.gguf_file is None else {**found, "gguf_file": model.gguf_file}


def _cannot_load(what: str, model: ModelConfig, error: Exception) -> str:
    reason = " ".join(str(error).split())
    place = "folder" if Path(model.name).is_dir() else "Hub id"
    return f"no {what} could be loaded from the {place} {model.name!r}: {reason[:300]}"
