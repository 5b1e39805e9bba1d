"""What a reference is: the content of its weights, of its adapter and of its config, and the precision it scores in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.utils.hub import get_checkpoint_shard_files
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME

from prefopt.config import AdapterConfig, ModelConfig
from prefopt.engine.adapters import Adapter, spelled_out
from prefopt.engine.places import check_place, model_file
from prefopt.errors import ModelError, PrefoptError
from prefopt.reference.weights import combined, tensor_digests

_WHOLE = ("model.safetensors", "pytorch_model.bin")
_SHARDED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# Versions, paths, labels, tokens, how it is run rather than what it computes, and dropout, which is off.
_BESIDE_THE_POINT = {
    *("_name_or_path", "name_or_path", "transformers_version", "peft_version", "architectures", "auto_map"),
    *("use_cache", "cache_implementation", "torch_dtype", "dtype", "_attn_implementation", "attn_implementation"),
    *("base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "task_type"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "id2label", "label2id", "num_labels", "problem_type"),
}

# Parts of an identity that stores written before them do not know.
_ADDED = ("autocast", "quantization")


@dataclass(frozen=True)
class Identity:
    """A reference by its content; where it lies and what it is called are not in it.

    Attributes:
        weights: digest over sorted (tensor name, dtype, shape, bytes), however they are cut into files.
        config: digest of the architecture config.
        adapter: digest of the adapter's weights and config, or None.
        dtype: precision of weights and, without `autocast`, of products while it scores.
        autocast: precision of its products, or None where that is `dtype`.
        quantization: the bits its weights are held in, or None where they are as in its files.
    """

    weights: str
    config: str
    adapter: str | None
    dtype: str
    autocast: str | None = None
    quantization: str | None = None

    @property
    def digest(self) -> str:
        """Hexadecimal sha256 of all of it; what is left to its default is not in it, so that older stores hold."""
        values = asdict(self)
        return _digest({name: own for name, own in values.items() if name not in _ADDED or own is not None})

    @property
    def precision(self) -> str:
        """How it scores, in words.

        >>> Identity("w", "c", None, "float32", autocast="bfloat16").precision
        'float32 with products in bfloat16'
        """
        products = "" if self.autocast is None else f" with products in {self.autocast}"
        return self.dtype + products + ("" if self.quantization is None else f" with weights in {self.quantization}")


def identify(model: ModelConfig) -> Identity:
    """The identity of a model as a config names it: read from its files, none of which is loaded.

    A new adapter that begins with zero output changes nothing: the reference is the base model.

    Args:
        model: the reference, or the initial policy.

    Raises:
        ConfigError: an adapter's setting is not one of peft's.
        ModelError: the files are not there or damaged, or others than these would be loaded, or a new adapter does not
            begin as its base.
    """
    try:
        model = spelled_out(model)
        return Identity(
            weights=combined([digest for file in _weight_files(model) for digest in tensor_digests(file)]),
            config=_config_digest(model),
            adapter=None if model.adapter is None else _adapter_digest(model.adapter),
            dtype=model.dtype,
            autocast=model.autocast,
            quantization=model.quantization,
        )
    except PrefoptError:
        raise
    except Exception as error:  # transformers, the Hub and the file system raise their own
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model {model.name!r} cannot be identified ({type(error).__name__}: {reason}); mend its files, or use "
            "reference.mode 'live'"
        ) from error


def _weight_files(model: ModelConfig) -> list[Path]:
    """The files transformers reads the weights from, in its own order of preference."""
    if model.gguf_file is not None:
        found = model_file(model, model.gguf_file)
        if found is not None:
            beside = Path(model.gguf_file)
            if beside.is_file() and not beside.samefile(found):
                raise ModelError(
                    f"model.gguf_file {model.gguf_file!r} lies in this folder too, and transformers would read that "
                    f"one instead of the one in {model.name!r}; start from another folder"
                )
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
    config = AutoConfig.from_pretrained(model.name, revision=model.revision, trust_remote_code=False)
    values = config.to_dict()
    if values.get("transformers_weights") is not None:
        raise ModelError(
            f"model {model.name!r} names a weights file of its own (transformers_weights in its config.json); rename "
            "it to model.safetensors, or use reference.mode 'live'"
        )
    # As read, not as written: another version of transformers writes other names and leaves out other defaults.
    defaults = type(config)().to_dict()
    own = {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}
    return _digest({"model_type": config.model_type, **_to_the_point(own)})


def _adapter_digest(adapter: AdapterConfig) -> str | None:
    if adapter.path is None:
        if adapter.begins_as_base:
            return None
        Adapter(adapter)  # a setting that peft does not know is the likelier mistake
        raise ModelError(
            f"model.adapter ({', '.join(adapter.beyond_base)}) may begin otherwise than its base; name the base as "
            "reference.model, or use reference.mode 'live'"
        )
    check_place(adapter.path, "adapter")
    place = ModelConfig(name=adapter.path)
    weights, config = (model_file(place, file) for file in (ADAPTER_SAFE_WEIGHTS_NAME, ADAPTER_CONFIG_NAME))
    if weights is None or config is None:
        missing = ADAPTER_CONFIG_NAME if config is None else ADAPTER_SAFE_WEIGHTS_NAME
        raise ModelError(f"adapter {adapter.path!r} has no {missing}; it is no folder that peft has saved")
    settings = json.loads(config.read_text(encoding="utf-8"))
    if settings.get("init_lora_weights") in (True, False, "gaussian"):
        del settings["init_lora_weights"]  # others have changed the base's weights, and do so again when it is loaded
    return _digest([combined(tensor_digests(weights)), _to_the_point(settings)])


def _to_the_point(config: Mapping[str, Any]) -> Any:
    """The config without what changes no log-prob, at any depth."""
    return {
        name: _to_the_point(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in _BESIDE_THE_POINT and "dropout" not in name and not name.endswith(("_drop", "_pdrop"))
    }


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
