"""Arguments and options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

ConfigFile = Annotated[str, typer.Argument(help="The YAML config of the run.")]

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Settings that replace the config's.")
]

PluginFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin", metavar="FILE.PY", help="A Python file that registers losses, tasks or methods; may be repeated."
    ),
]
