"""Everything a run needs, validated before anything is loaded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import AfterValidator, Field

from prefopt.errors import ConfigError
from prefopt.section import Section, explain
from prefopt.yaml_file import parse_yaml, read_yaml

# A place on disk or on the Hub.
_Place = Annotated[str, Field(min_length=1), AfterValidator(os.path.expanduser)]


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

    path: _Place | None = None
    """Folder of an adapter to continue from; absent: a new one, which begins as the base model."""

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

    name: _Place
    """A folder in Hugging Face format, or a Hub id."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    dtype: Literal["float64", "float32", "bfloat16", "float16"] = "float32"
    """Precision of the weights and of every product."""
    gguf_file: str | None = None
    """A GGUF file inside `name` to read the weights and the tokenizer from."""
    attention: Literal["sdpa", "eager", "flex_attention"] | None = None
    """The attention of transformers for plain rows; null: the fastest it has for the model. Packed trees take SDPA tree
    by tree, or with flex_attention (it needs a CUDA GPU) one block mask over the whole row, except under soft caps and
    sliding windows."""
    adapter: AdapterConfig | None = None
    """A LoRA adapter to train in place of the weights (needs prefopt[peft])."""


class DataConfig(Section):
    """Which rows, and what is done with those that do not fit."""

    train: _Place
    """A .jsonl, .json or .parquet file, a folder, or a Hub id; `[a:b]` after it takes those rows."""
    evaluation: _Place | Annotated[int, Field(ge=1)] | None = None
    """Held-out rows, named in the same way; or a number of rows of `train` to set aside, the same in every run."""
    max_length: int = Field(1024, ge=2)
    """Tokens of prompt and longest completion together; what exceeds it is truncated and reported."""
    on_bad_row: Literal["error", "skip"] = "error"
    """Stop at a row that cannot be used, or leave it out, count it and list it."""


class LossConfig(Section):
    """One part of the objective. Keys beyond `name` and `weight` are the loss's own hyper-parameters."""

    model_config = pydantic.ConfigDict(extra="allow")

    name: str
    """Name of a registered loss: `prefopt losses` lists them."""
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Weight of this part in a list of losses."""

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """What the loss itself is built from."""
        return dict(self.__pydantic_extra__ or {})


class ReferenceConfig(Section):
    """Where reference log-probs come from."""

    mode: Literal["cached", "live", "none"] = "live"
    """live: a second model in memory, only for losses that need a reference. cached: log-probs from the store, where
    those of new rows are scored first; no second model stays in memory. none: no loss may need one."""
    model: ModelConfig | None = None
    """The reference; absent: the initial policy."""
    cache_dir: _Place | None = None
    """The store: a folder, or a URL that fsspec knows (s3://bucket/logps); null: ~/.cache/prefopt/references."""
    strict: bool = False
    """With mode cached: refuse to train while a completion is not in the store, instead of scoring it."""
    verify_rows: int = Field(8, ge=0)
    """With mode cached, where the reference is the initial policy: stored rows that are scored again before step 1 and
    must agree; 0: none."""
    update_steps: int | None = Field(None, ge=1)
    """With mode live: draw the reference towards the policy after every so many steps (TR-DPO)."""
    update_weight: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    """Share of the policy in the reference after such an update; 1 replaces it."""


class TrainingConfig(Section):
    """The optimisation."""

    batch_size: int = Field(64, ge=1)
    """Rows per optimiser step, as read: before pairs are split or rankings expanded."""
    tokens_per_microbatch: int = Field(8192, ge=2)
    """Tokens computed at once. Memory and speed follow it; the result does not, beyond rounding."""
    optimizer: Literal["adamw", "rmsprop", "sgd"] = "adamw"
    """torch's optimisers with their defaults, without weight decay."""
    learning_rate: float = Field(1e-6, gt=0, allow_inf_nan=False)
    """Peak learning rate."""
    scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    """Learning rate over the steps, by transformers' name."""
    warmup_steps: int = Field(0, ge=0)
    """Steps in which the learning rate rises from 0."""
    max_grad_norm: float | None = Field(1.0, gt=0, allow_inf_nan=False)
    """Gradients of a larger L2 norm are scaled down to it; null: off."""
    epochs: float = Field(1.0, gt=0, le=1e6, allow_inf_nan=False)
    """Passes over the training rows."""
    max_steps: int | None = Field(None, ge=1)
    """Take this many optimiser steps, whatever `epochs` says."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the row order and of everything else that draws."""


class EvaluationConfig(Section):
    """What is measured on the held-out rows, before and after training."""

    every_steps: int | None = Field(None, ge=1)
    """Also evaluate after every so many steps."""
    samples: int = Field(0, ge=0)
    """Held-out prompts to complete greedily before and after training; the texts go into run.json."""
    max_new_tokens: int = Field(64, ge=1)
    """Length limit of those completions."""


class PluginConfig(Section):
    """A Python file that registers losses."""

    path: _Place
    """The file."""
    sha256: str | None = None
    """Digest of the file; the resolved config records it, and a file with another one is refused."""


class RunConfig(Section):
    """A whole run."""

    model: ModelConfig
    """The policy to train: a name, or a mapping."""
    data: DataConfig
    """The rows."""
    loss: Annotated[tuple[LossConfig, ...], Field(min_length=1)]
    """A name, a mapping with `name`, or a list of mappings with weights."""
    reference: ReferenceConfig = ReferenceConfig()
    """The reference model."""
    training: TrainingConfig = TrainingConfig()
    """The optimisation."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What is measured on held-out rows."""
    output_dir: _Place
    """Folder for the model, the resolved config, metrics.jsonl and run.json."""
    plugins: tuple[PluginConfig, ...] = ()
    """Python files that register losses, besides the installed plugins: paths, or mappings with `path`."""

    @pydantic.model_validator(mode="after")
    def _go_together(self) -> RunConfig:
        training, evaluation = self.training, self.evaluation
        if training.warmup_steps and training.scheduler == "constant":
            raise ValueError(
                f"training.warmup_steps = {training.warmup_steps} has no effect with training.scheduler 'constant'; "
                "use 'constant_with_warmup'"
            )
        if self.data.evaluation is None:
            for key in ("every_steps", "samples"):
                if getattr(evaluation, key):
                    raise ValueError(f"evaluation.{key} needs held-out rows: set data.evaluation")
        if not evaluation.samples and evaluation.max_new_tokens != EvaluationConfig().max_new_tokens:
            raise ValueError("evaluation.max_new_tokens has no effect without evaluation.samples")
        if self.reference.mode == "none" and self.reference.model is not None:
            raise ValueError("reference.model has no effect with reference.mode 'none'; remove one of them")
        if self.reference.update_steps is not None and self.reference.mode != "live":
            raise ValueError(
                "reference.update_steps moves the reference, so no stored log-prob stays true; it needs reference.mode "
                f"'live', not {self.reference.mode!r}"
            )
        if self.reference.update_steps is None and self.reference.update_weight != 1.0:
            raise ValueError("reference.update_weight has no effect without reference.update_steps")
        if self.reference.mode != "cached":
            for key in ("cache_dir", "strict", "verify_rows"):
                if getattr(self.reference, key) != getattr(ReferenceConfig(), key):
                    raise ValueError(
                        f"reference.{key} has no effect with reference.mode {self.reference.mode!r}; use 'cached'"
                    )
        return self


def load_config(path: str | Path, overrides: Sequence[str] = (), plugins: Iterable[str] = ()) -> RunConfig:
    """Read and validate a YAML config.

    Args:
        path: the YAML file.
        overrides: `key.path=value` settings that replace what the file says; values are YAML.
        plugins: plugin files to append to the config's own.

    Raises:
        ConfigError: the file is missing or not YAML, or a key or value is not valid; the message names the file, the
            key path, the value, what is allowed and the nearest known key.
    """
    values = read_yaml(Path(path))
    for override in overrides:
        _set(values, override)
    given = values.get("plugins") or []
    if plugins and isinstance(given, list):
        values["plugins"] = [*given, *plugins]
    return parse_config(values, where=str(path))


def parse_config(values: Mapping[str, Any], *, where: str = "config") -> RunConfig:
    """Validate a config given as plain values.

    Args:
        values: what the YAML file holds.
        where: how errors name the config.

    Raises:
        ConfigError: as `load_config`.
    """
    try:
        return RunConfig.model_validate(_spell_out(values))
    except pydantic.ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, RunConfig, _LATER)}") from None


def with_digests(config: RunConfig) -> RunConfig:
    """The config with the digest of every plugin file.

    Raises:
        ConfigError: a file is not the one whose digest the config names.
    """
    plugins = []
    for plugin in config.plugins:
        path = Path(plugin.path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        if plugin.sha256 not in (None, digest):
            raise ConfigError(
                f"plugin file {plugin.path!r} is not the one the config names: its sha256 is {digest}, "
                f"not {plugin.sha256}"
            )
        plugins.append(plugin.model_copy(update={"sha256": digest}))
    return config.model_copy(update={"plugins": tuple(plugins)})


def as_values(config: RunConfig) -> dict[str, Any]:
    """The resolved config as plain values, every default spelled out; `parse_config` reads it back."""
    values = config.model_dump(mode="json")
    if len(config.loss) == 1 and config.loss[0].weight == 1.0:
        values["loss"] = {key: value for key, value in values["loss"][0].items() if key != "weight"}
    return values


def to_yaml(config: RunConfig) -> str:
    """The resolved config as YAML."""
    return yaml.safe_dump(as_values(config), sort_keys=False, allow_unicode=True)


def json_schema() -> dict[str, Any]:
    """The JSON schema of the YAML file, for editors: short forms such as `loss: dpo` included."""
    schema = RunConfig.model_json_schema()
    properties, definitions = schema["properties"], schema["$defs"]
    loss = {"$ref": "#/$defs/LossConfig"}
    properties["loss"]["anyOf"] = [
        {"type": "string"},
        loss,
        {"type": "array", "items": {"anyOf": [{"type": "string"}, loss]}, "minItems": 1},
    ]
    for key in ("type", "items", "minItems"):
        properties["loss"].pop(key, None)
    model = {"$ref": "#/$defs/ModelConfig"}
    description = properties["model"].get("description", "")
    properties["model"] = {"anyOf": [{"type": "string"}, model], "description": description}
    properties["plugins"]["items"] = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/PluginConfig"}]}
    reference = definitions["ReferenceConfig"]["properties"]["model"]
    reference["anyOf"] = [{"type": "string"}, *reference["anyOf"]]
    schema["title"] = "prefopt run"
    return schema


def _set(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"override {override!r} is not of the form key.path=value")
    place: Any = values
    for depth, key in enumerate(keys[:-1]):
        if isinstance(place, list):
            place = place[_index(place, key, override)]
            continue
        below = place.get(key)
        if below is None:
            below = {}
        elif isinstance(below, str) and key in ("loss", "model"):
            below = {"name": below}  # `loss.beta=0.2` after `loss: dpo`
        elif isinstance(below, list) and key == "loss":
            below = [{"name": part} if isinstance(part, str) else part for part in below]
        elif not isinstance(below, dict | list):
            raise ConfigError(f"override {override!r}: {'.'.join(keys[: depth + 1])} is {below!r}, not a mapping")
        place[key] = below
        place = below
    value = parse_yaml(text, f"override {override!r}")
    if isinstance(place, list):
        place[_index(place, keys[-1], override)] = value
    elif not isinstance(place, dict):
        raise ConfigError(f"override {override!r}: {'.'.join(keys[:-1])} is {place!r}, not a mapping")
    else:
        place[keys[-1]] = value


def _index(place: list[Any], key: str, override: str) -> int:
    if not key.isdigit() or int(key) >= len(place):
        raise ConfigError(f"override {override!r}: {key!r} is no position in a list of {len(place)}")
    return int(key)


def _spell_out(values: Mapping[str, Any]) -> dict[str, Any]:
    """The short forms written in full: `loss: dpo`, `model: gpt2`."""
    full = dict(values)
    if isinstance(full.get("model"), str):
        full["model"] = {"name": full["model"]}
    reference = full.get("reference")
    if isinstance(reference, Mapping) and isinstance(reference.get("model"), str):
        full["reference"] = {**reference, "model": {"name": reference["model"]}}
    loss = full.get("loss")
    if isinstance(loss, str | Mapping):
        loss = [loss]
    if isinstance(loss, list | tuple):
        full["loss"] = tuple({"name": part} if isinstance(part, str) else part for part in loss)
    if isinstance(full.get("plugins"), list):
        full["plugins"] = tuple({"path": file} if isinstance(file, str) else file for file in full["plugins"])
    return full


_LATER = {"tracking": "metrics.jsonl holds every step"}
