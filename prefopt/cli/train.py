"""`prefopt train`."""

from __future__ import annotations

from typing import Annotated

import typer

from prefopt.cli.options import PluginFiles
from prefopt.config import LossConfig, RunConfig, load_config
from prefopt.errors import ConfigError
from prefopt.loss import Loss
from prefopt.registry import Registry, load_registry
from prefopt.weighted import Objective, WeightedSum


def train(
    config: Annotated[str, typer.Argument(help="The YAML config of the run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Settings that replace the config's.")
    ] = None,
    plugin: PluginFiles = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in output_dir.")] = False,
) -> None:
    """Train a model with the loss the config names."""
    # transformers takes seconds to import; the other commands, and a config with a typo, do without.
    settings = load_config(config, overrides or (), plugin or ())
    registry = load_registry(settings.plugins)
    try:
        loss = build_loss(settings, registry)
    except ConfigError as error:
        raise ConfigError(f"{config}: {error}") from None

    from prefopt.cli.terminal import TerminalWatcher, quieten
    from prefopt.run import run

    quieten()
    watcher = TerminalWatcher()
    try:
        run(settings, loss, overwrite=overwrite, watcher=watcher, provenance=_provenance(settings, registry))
    except KeyboardInterrupt:
        watcher.say("interrupted")
        raise typer.Exit(130) from None
    watcher.say(f"wrote   {settings.output_dir}")


def build_loss(settings: RunConfig, registry: Registry) -> Objective:
    """The loss the config names, or the weighted sum of its parts.

    Raises:
        UnknownNameError: no plugin registers a name.
        ConfigError: a hyper-parameter is not valid, or the parts do not go together.
    """
    if len(settings.loss) == 1 and settings.loss[0].weight == 1:
        return _build(settings.loss[0], registry)
    return WeightedSum(tuple((part.weight, _build(part, registry)) for part in settings.loss))


def _build(part: LossConfig, registry: Registry) -> Loss:
    return registry.loss(part.name, **part.hyperparameters)


def _provenance(settings: RunConfig, registry: Registry) -> dict[str, str]:
    plugins = [registry.plugin_of(part.name) for part in settings.loss]
    return {plugin.name: plugin.version for plugin in plugins}
