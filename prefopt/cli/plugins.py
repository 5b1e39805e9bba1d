"""`prefopt plugins`."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from prefopt.cli.options import PluginFiles
from prefopt.kinds import KINDS
from prefopt.registry import Plugin, load_registry


def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    plugin: PluginFiles = None,
) -> None:
    """List the plugins found, what each brings, and why some failed to load."""
    registry = load_registry(plugin or ())
    if as_json:
        clashes = [*registry.contested.items(), *registry.contested_tasks.items()]
        found = [
            dataclasses.asdict(one) | {"contested": [name for name, plugins in clashes if one.name in plugins]}
            for one in registry.plugins
        ]
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("plugin", "version", "brings"):
        table.add_column(column, overflow="fold")
    for one in registry.plugins:
        table.add_row(one.name, one.version, f"failed to load: {one.error}" if one.error else _brings(one))
    console = Console(highlight=False, markup=False)
    console.print(table)
    for sentence in registry.left_out:
        console.print(f"left out: {sentence}", soft_wrap=True)


def _brings(plugin: Plugin) -> str:
    """What it brings, kind by kind, as in "losses cool, warm; task windy"."""
    brought = {kind: plugin.names(kind) for kind in KINDS}
    return "; ".join(
        f"{kind.one if len(names) == 1 else kind.many} {', '.join(names)}" for kind, names in brought.items() if names
    )
