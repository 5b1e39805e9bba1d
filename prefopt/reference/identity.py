"""What a reference is: the content of its weights, of its adapter and of its config, and the precision it scores in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers.utils.hub import get_checkpoint_shard_files
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME

from prefopt.config import AdapterConfig, ModelConfig
from prefopt.engine.adapters import spelled_out
from prefopt.engine.places import check_place, model_file
from prefopt.errors import ModelError
from prefopt.reference.weights import combined, tensor_digests

_CONFIG = "config.json"
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_SHARDED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# Versions, paths, how it is run rather than what it computes, and dropout, which is off.
_BESIDE_THE_POINT = {
    *("_name_or_path", "name_or_path", "transformers_version", "peft_version", "architectures", "auto_map"),
    *("use_cache", "cache_implementation", "torch_dtype", "dtype", "_attn_implementation", "attn_implementation"),
    *("base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "task_type", "init_lora_weights"),
}


@dataclass(frozen=True)
class Identity:
    """A reference by its content; where it lies and what it is called are not in it.

    Attributes:
        weights: digest over sorted (tensor name, dtype, shape, bytes), however they are cut into files.
        config: digest of the architecture config.
        adapter: digest of the adapter's weights and config, or None.
        dtype: precision of weights and products while it scores.
    """

    weights: str
    config: str
    adapter: str | None
    dtype: str

    @property
    def digest(self) -> str:
        """Hexadecimal sha256 of all of it."""
        return _digest(asdict(self))


def identify(model: ModelConfig) -> Identity:
    """The identity of a model as a config names it: read from its files, none of which is loaded.

    An adapter that a run begins with zero output changes nothing: the reference is the base model.

    Args:
        model: the reference, or the initial policy.

    Raises:
        ModelError: the files are not there, or the adapter begins with random output.
    """
    model = spelled_out(model)
    return Identity(
        weights=combined(_weights(model)),
        config=_config_digest(model),
        adapter=None if model.adapter is None else _adapter_digest(model.adapter),
        dtype=model.dtype,
    )


def _weights(model: ModelConfig) -> dict[str, str]:
    return {name: told for file in _weight_files(model) for name, told in tensor_digests(file).items()}


def _weight_files(model: ModelConfig) -> list[Path]:
    """The files transformers reads the weights from, in its own order of preference."""
    if model.gguf_file is not None:
        found = model_file(model, model.gguf_file)
        if found is not None:
            return [found]
    else:
        for whole, sharded in zip(_WHOLE, _SHARDED, strict=True):
            found = model_file(model, whole)
            if found is not None:
                return [found]
            index = model_file(model, sharded)
            if index is not None:
                files, _ = get_checkpoint_shard_files(  # type: ignore[no-untyped-call]
                    model.name, str(index), revision=model.revision
                )
                return [Path(file) for file in files]
    names = [model.gguf_file] if model.gguf_file else [*_WHOLE, *_SHARDED]
    raise ModelError(
        f"model {model.name!r} has no weights a reference could be told by ({', '.join(names)}), or cannot be reached; "
        "correct its name, or use reference.mode 'live'"
    )


def _config_digest(model: ModelConfig) -> str:
    if model.gguf_file is not None:
        return "in the GGUF file"
    path = model_file(model, _CONFIG)
    if path is None:
        raise ModelError(f"model {model.name!r} has no {_CONFIG}; it is no folder in Hugging Face format")
    return _digest(_to_the_point(_read_json(path)))


def _adapter_digest(adapter: AdapterConfig) -> str | None:
    if adapter.path is None:
        if adapter.begins_as_base:
            return None
        raise ModelError(
            f"model.adapter.init_lora_weights = {adapter.settings['init_lora_weights']!r} makes the initial policy "
            "differ from its base, by a draw; name the base as reference.model, or use reference.mode 'live'"
        )
    check_place(adapter.path, "adapter")
    place = ModelConfig(name=adapter.path)
    weights, config = (model_file(place, file) for file in (ADAPTER_SAFE_WEIGHTS_NAME, ADAPTER_CONFIG_NAME))
    if weights is None or config is None:
        missing = ADAPTER_CONFIG_NAME if config is None else ADAPTER_SAFE_WEIGHTS_NAME
        raise ModelError(f"adapter {adapter.path!r} has no {missing}; it is no folder that peft has saved")
    return _digest([combined(tensor_digests(weights)), _to_the_point(_read_json(config))])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{str(path)!r} holds no mapping")
    return values


def _to_the_point(config: Mapping[str, Any]) -> Any:
    """The config without what changes no log-prob, at any depth."""
    return {
        name: _to_the_point(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in _BESIDE_THE_POINT and "dropout" not in name and not name.endswith(("_drop", "_pdrop"))
    }


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
