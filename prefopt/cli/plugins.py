"""`prefopt plugins`."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from prefopt.cli.options import PluginFiles
from prefopt.registry import load_registry


def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    plugin: PluginFiles = None,
) -> None:
    """List the plugins found, what each brings, and why some failed to load."""
    found = load_registry(plugin or ()).plugins
    if as_json:
        print(json.dumps([dataclasses.asdict(one) for one in found], indent=2, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("plugin", "version", "losses"):
        table.add_column(column, overflow="fold")
    for one in found:
        table.add_row(one.name, one.version, ", ".join(one.losses) or f"failed to load: {one.error}")
    Console(highlight=False, markup=False).print(table)
