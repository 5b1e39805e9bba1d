"""From the arguments of a command to a validated config and its loss."""

from __future__ import annotations

from collections.abc import Sequence

from prefopt.config import RunConfig, load_config, with_digests
from prefopt.errors import ConfigError
from prefopt.objective import build_loss
from prefopt.registry import Registry, load_registry
from prefopt.weighted import Objective


def read_settings(
    config: str, overrides: Sequence[str] | None, plugin_files: Sequence[str] | None
) -> tuple[RunConfig, Objective, Registry]:
    """The config, the loss it names and the registry that knows it.

    Raises:
        ConfigError: the config is not valid, or its loss cannot be built from it.
        PluginError: a plugin file fails to load.
    """
    settings = with_digests(load_config(config, overrides or (), plugin_files or ()))
    registry = load_registry(file.path for file in settings.plugins)
    try:
        return settings, build_loss(settings, registry), registry
    except ConfigError as error:
        raise ConfigError(f"{config}: {error}") from None
