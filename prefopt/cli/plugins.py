"""`prefopt plugins`."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from prefopt.cli.options import PluginFiles
from prefopt.registry import load_registry, taken_twice


def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    plugin: PluginFiles = None,
) -> None:
    """List the plugins found, what each brings, and why some failed to load."""
    registry = load_registry(plugin or ())
    if as_json:
        found = [
            dataclasses.asdict(one) | {"contested": [loss for loss in one.losses if loss in registry.contested]}
            for one in registry.plugins
        ]
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("plugin", "version", "losses"):
        table.add_column(column, overflow="fold")
    for one in registry.plugins:
        table.add_row(one.name, one.version, f"failed to load: {one.error}" if one.error else ", ".join(one.losses))
    console = Console(highlight=False, markup=False)
    console.print(table)
    for loss, brought_by in registry.contested.items():
        console.print(f"left out: {taken_twice(loss, brought_by)}", soft_wrap=True)
