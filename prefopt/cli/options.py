"""Options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

PluginFiles = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="FILE.PY", help="A Python file that registers losses; may be repeated."),
]
