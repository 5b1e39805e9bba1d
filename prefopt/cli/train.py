"""`prefopt train`."""

from __future__ import annotations

from typing import Annotated

import typer

from prefopt.cli.options import PluginFiles
from prefopt.config import load_config, with_digests
from prefopt.errors import ConfigError
from prefopt.objective import build_loss, provenance
from prefopt.registry import load_registry


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
    settings = with_digests(load_config(config, overrides or (), plugin or ()))
    registry = load_registry(file.path for file in settings.plugins)
    try:
        loss = build_loss(settings, registry)
    except ConfigError as error:
        raise ConfigError(f"{config}: {error}") from None

    from prefopt.cli.terminal import TerminalWatcher, quieten
    from prefopt.run import run

    quieten()
    watcher = TerminalWatcher()
    try:
        run(settings, loss, overwrite=overwrite, watcher=watcher, provenance=provenance(settings, registry))
    except KeyboardInterrupt:
        watcher.say("interrupted")
        raise typer.Exit(130) from None
    watcher.say(f"wrote   {settings.output_dir}")
