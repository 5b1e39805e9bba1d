"""`prefopt precompute`."""

from __future__ import annotations

import typer

from prefopt.cli.options import ConfigFile, Overrides, PluginFiles
from prefopt.cli.settings import read_settings


def precompute(config: ConfigFile, overrides: Overrides = None, plugin: PluginFiles = None) -> None:
    """Score the reference log-probs of every row of a config into the store.

    What is stored already is not scored again. Interrupt it whenever you like: finished work is kept, and the next
    start goes on from there. `accelerate launch -m prefopt precompute CONFIG` shares the work among processes.
    """
    settings, loss, _ = read_settings(config, overrides, plugin)

    from prefopt.cli.terminal import TerminalWatcher, quieten
    from prefopt.precompute import precompute as score

    quieten()
    terminal = TerminalWatcher()
    try:
        score(settings, loss, watcher=terminal)
    except KeyboardInterrupt:
        terminal.say("interrupted; what was scored is kept, and the next start goes on from there")
        raise typer.Exit(130) from None
