"""Adapters through peft, put into a loaded model in place."""

from __future__ import annotations

import copy
import dataclasses
import json
import warnings
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME

from prefopt.config import AdapterConfig, ModelConfig
from prefopt.engine.adapted import NAME, wrap
from prefopt.engine.places import check_place, model_file
from prefopt.errors import ConfigError, ModelError, unknown_name

# What peft can train, but not within an engine that lays rows out as trees, runs every row twice, and knows no model
# but the one it trains.
_REFUSED = {
    "ADALORA": "moves its ranks about by calls of a trainer of its own",
    "ADAMSS": "moves its ranks about by calls of a trainer of its own",
    "ADAPTION_PROMPT": "puts virtual tokens before the prompt, and trees hold none",
    "POLY": "reads a task beside every row",
    "PVERA": "draws noise in every pass, and a policy must give the same log-probs twice",
    "SHADOW": "hands other things than hidden states from layer to layer",
    "XLORA": "mixes other adapters by a pass of its own over every row",
}
_REFUSED_SETTINGS = {
    "alora_invocation_tokens": "looks for its tokens in rows of one sequence each",
    "arrow_config": "mixes other adapters by a pass of its own over every row",
    "megatron_config": "is for models of Megatron",
    "monteclora_config": "draws noise in every pass, and a policy must give the same log-probs twice",
    "velora_config": "gives another gradient than that of the loss",
}
# peft warns of a setting that does nothing; here that is an error.
_NO_EFFECT = ("were ignored", "no module was matched", "no parameter was matched", "no modules were excluded")
# What peft warns of here is taken care of in `prefopt.engine.adapted`.
_TIED = "tie_word_embeddings"


class Adapter:
    """The adapter a config asks for, checked before any model loads."""

    def __init__(self, settings: AdapterConfig) -> None:
        """Check the settings.

        Args:
            settings: the folder of an adapter, or what peft builds a new one from.

        Raises:
            ConfigError: peft is not installed, knows no such adapter or setting, takes no such value, or has it for
                other engines than this one.
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
        values = dict(settings.settings)
        kinds = {kind.value: own for kind, own in peft.PEFT_TYPE_TO_CONFIG_MAPPING.items()}
        kind = str(values.pop("peft_type", "LORA")).upper()
        if kind not in kinds:
            raise ConfigError(unknown_name("model.adapter.peft_type", kind.lower(), [name.lower() for name in kinds]))
        known = [field.name for field in dataclasses.fields(kinds[kind]) if field.init]
        for name in values:
            if name not in known:
                raise ConfigError(unknown_name("key of model.adapter", name, known))
        _check_kind(kind, kinds[kind], "model.adapter.peft_type")
        for name in values:
            if name in _REFUSED_SETTINGS and values[name] is not None:
                raise ConfigError(f"model.adapter.{name} {_REFUSED_SETTINGS[name]}; remove it")
        if values.get("task_type") not in (None, "CAUSAL_LM"):
            raise ConfigError(
                f"model.adapter.task_type = {values['task_type']!r} has no effect: what is trained is a causal "
                "language model; remove it"
            )
        # No dropout, for the same reason as in the model itself: two passes over a row must agree.
        for name in _dropouts(kinds[kind]):
            if values.setdefault(name, 0.0):
                raise ConfigError(f"model.adapter.{name} must be 0: a policy must give the same log-probs twice")
        try:
            self._new = kinds[kind](**values)
        except (TypeError, ValueError, ImportError) as error:
            raise ConfigError(f"model.adapter: {' '.join(str(error).split())}") from error

    def attach(self, model: PreTrainedModel, seed: int, *, revision: str | None = None) -> None:
        """Put the adapter into the model; from then on it alone is trained.

        Adapter weights of a model in bfloat16 or float16 are float32, where peft has that for the type, so that small
        updates are not lost.

        Args:
            model: changed in place.
            seed: of a new adapter's weights.
            revision: of the base on the Hub, which what is saved names beside it.

        Raises:
            ConfigError: the adapter in the folder is of a type that this engine does not take.
            ModelError: the adapter does not fit the model, its folder holds none, or none of all its weights, or it
                cannot be merged as `merge` asks.
        """
        name = type(model).__name__
        try:
            self._attach(model, seed, revision)
        except (ConfigError, ModelError):
            raise
        except Exception as error:  # peft and safetensors raise their own
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"model.adapter cannot be put into {name}: {reason}") from error
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ModelError(f"model.adapter leaves nothing in {name} to train; give it modules to target")
        if self._settings.merge:
            _check_mergeable(model)

    def _attach(self, model: PreTrainedModel, seed: int, revision: str | None) -> None:
        import peft

        path = self._settings.path
        config = self._new if path is None else peft.PeftConfig.from_pretrained(path)
        if path is not None:
            kind = str(getattr(config.peft_type, "value", config.peft_type))
            _check_kind(kind, type(config), f"adapter {path!r}: its peft_type")
            config.inference_mode = False
            for name in _dropouts(type(config)):  # of an adapter that was trained with it
                setattr(config, name, 0.0)
        config.revision = revision
        with warnings.catch_warnings(record=True) as told, torch.random.fork_rng():
            warnings.simplefilter("always")
            torch.manual_seed(seed)
            wrapped = wrap(model, config)
        for part in getattr(config, "modules_to_save", None) or ():
            if not any(own == part or own.endswith(f".{part}") for own, _ in model.named_modules()):
                raise ModelError(
                    f"model.adapter.modules_to_save names {part!r}, and {type(model).__name__} has no such module; the "
                    "head of most models is lm_head"
                )
        for warning in told:
            text = " ".join(str(warning.message).split())
            if any(words in text for words in _NO_EFFECT):
                raise ModelError(f"model.adapter: {text}")
            if not issubclass(warning.category, FutureWarning) and _TIED not in text:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        if path is None:
            return
        found: Any = peft.set_peft_model_state_dict(wrapped, peft.load_peft_weights(path, device="cpu"), NAME)
        lacking = _lacking(wrapped, found.missing_keys)
        if lacking or found.unexpected_keys:
            what = f"lacks {len(lacking)} weights of its own settings, {lacking[0]!r} first" if lacking else ""
            beside = f"holds weights that nothing in {type(model).__name__} takes, {found.unexpected_keys[:1]} first"
            raise ModelError(f"adapter {path!r} {what or beside}; it is damaged, or another model's")


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


def _check_kind(kind: str, config: type[Any], where: str) -> None:
    import peft

    reason = _REFUSED.get(kind)
    if reason is None and issubclass(config, peft.PromptLearningConfig):
        reason = _REFUSED["ADAPTION_PROMPT"]
    if reason is not None:
        raise ConfigError(f"{where} {kind.lower()!r} {reason}; use lora or another adapter of the weights")


def _dropouts(config: type[Any]) -> list[str]:
    """The settings of that type that turn on a dropout: rates, not switches of how one is done."""
    return [
        field.name
        for field in dataclasses.fields(config)
        if "dropout" in field.name and isinstance(field.default, int | float) and not isinstance(field.default, bool)
    ]


def _lacking(wrapped: nn.Module, missing: list[str]) -> list[str]:
    """Which of the names are weights in training that no other name, of the same weight, has filled."""
    absent = set(missing)
    own = dict(wrapped.named_parameters(remove_duplicate=False))
    filled = {id(parameter) for name, parameter in own.items() if name not in absent}
    return [name for name in missing if name in own and own[name].requires_grad and id(own[name]) not in filled]


def _check_mergeable(model: PreTrainedModel) -> None:
    """Merge a copy of one layer of each kind, so that a run does not learn of it when it has trained."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = {type(module): module for module in model.modules() if isinstance(module, BaseTunerLayer)}
    for layer in layers.values():
        try:
            copy.deepcopy(layer).merge(safe_merge=True)
        except Exception as error:  # peft raises its own
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"model.adapter.merge: peft cannot merge its {type(layer).__name__} ({reason}); set it to false and "
                "save the adapter alone"
            ) from error
