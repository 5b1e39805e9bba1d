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

    from accelerate import PartialState

    from prefopt.cli.terminal import TerminalWatcher, quieten, stopped_by_sigterm
    from prefopt.precompute import precompute as score

    quieten()
    terminal = TerminalWatcher()
    try:
        with stopped_by_sigterm():
            score(settings, loss, watcher=terminal)
        PartialState().destroy_process_group()  # several processes would otherwise end in any order
    except KeyboardInterrupt:
        terminal.say("interrupted; what was scored is kept, and the next start goes on from there")
        raise typer.Exit(130) from None
