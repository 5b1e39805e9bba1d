"""From a YAML file and overrides to a config, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml

from prefopt.config.run import RunConfig
from prefopt.errors import ConfigError
from prefopt.section import explain
from prefopt.yaml_file import parse_yaml, read_yaml


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
        raise ConfigError(f"{where}: {explain(error, RunConfig)}") from None


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
        if not isinstance(place, dict):
            raise ConfigError(f"override {override!r}: {'.'.join(keys[:depth])} is {place!r}, not a mapping")
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
    if not (key.isascii() and key.isdigit()) or int(key) >= len(place):
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
    tracking = full.get("tracking")
    if isinstance(tracking, str):
        tracking = [tracking]
    if isinstance(tracking, list | tuple):
        tracking = {"trackers": tracking}
    if isinstance(tracking, Mapping):
        trackers = tracking.get("trackers")
        full["tracking"] = {**tracking, "trackers": tuple(trackers)} if isinstance(trackers, list) else tracking
    loss = full.get("loss")
    if isinstance(loss, str | Mapping):
        loss = [loss]
    if isinstance(loss, list | tuple):
        full["loss"] = tuple({"name": part} if isinstance(part, str) else part for part in loss)
    if isinstance(full.get("plugins"), list):
        full["plugins"] = tuple({"path": file} if isinstance(file, str) else file for file in full["plugins"])
    return full
