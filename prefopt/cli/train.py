"""`prefopt train`."""

from __future__ import annotations

from typing import Annotated

import typer

from prefopt.cli.options import ConfigFile, Overrides, PluginFiles
from prefopt.cli.settings import read_settings
from prefopt.errors import ConfigError
from prefopt.objective import provenance


def train(
    config: ConfigFile,
    overrides: Overrides = None,
    plugin: PluginFiles = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in output_dir.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last checkpoint in output_dir; begin where there is none.")
    ] = False,
) -> None:
    """Train a model with the loss the config names."""
    if overwrite and resume:
        raise ConfigError("--overwrite and --resume contradict each other: one discards the run in output_dir")
    settings, loss, registry = read_settings(config, overrides, plugin)

    # transformers takes seconds to import; the other commands, and a config with a typo, do without.
    from prefopt.cli.terminal import TerminalWatcher, quieten, stopped_by_sigterm
    from prefopt.run import run

    quieten()
    watcher = TerminalWatcher()
    try:
        with stopped_by_sigterm():
            run(
                settings,
                loss,
                overwrite=overwrite,
                resume=resume,
                watcher=watcher,
                provenance=provenance(settings, registry),
            )
    except KeyboardInterrupt:
        watcher.say("interrupted")
        raise typer.Exit(130) from None
