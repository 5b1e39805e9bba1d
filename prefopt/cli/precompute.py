"""`prefopt precompute`."""

from __future__ import annotations

import os

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
    from prefopt.watcher import Watcher

    quieten()
    terminal = TerminalWatcher()
    first = os.environ.get("RANK", "0") == "0"
    try:
        found = score(settings, loss, watcher=terminal if first else Watcher())
    except KeyboardInterrupt:
        terminal.say("interrupted; what was scored is kept, and the next start goes on from there")
        raise typer.Exit(130) from None
    if not first:
        return
    terminal.say(
        f"scored  {found['rows_scored']:,} rows ({found['num_completions']:,} completions) in "
        f"{found['wall_seconds']:.1f} s; {found['rows_reused']:,} rows were stored before"
    )
    if settings.reference.mode != "cached":
        terminal.say(
            f"reference.mode is {settings.reference.mode!r}: to read the store, train with reference.mode=cached"
        )
    terminal.say(f"store   {found['store']} (reference {found['identity'][:12]})")
