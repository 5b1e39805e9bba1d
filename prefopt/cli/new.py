"""`prefopt new loss`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefopt.registry import load_registry
from prefopt.scaffold.package import write_loss_package

new = typer.Typer(help="Start a plugin package.")


@new.callback()
def _new() -> None:
    """Keeps `loss` a word to type while it is the only command."""


@new.command()
def loss(
    name: Annotated[str, typer.Argument(help="One lowercase word: the loss's name in configs and in Python.")],
    rows: Annotated[str, typer.Option("--rows", metavar="KIND", help="What it reads: pairs, labels or rankings.")] = (
        "pairs"
    ),
    into: Annotated[Path, typer.Option("--into", metavar="FOLDER", help="Where to put the package.")] = Path(),
) -> None:
    """Write a package with a loss that already passes its tests, to be changed into yours."""
    registry = load_registry()
    written = write_loss_package(name, rows, into, [*registry.losses, *registry.methods, *registry.contested])
    for path in written:
        print(f"wrote {path}")
    folder = written[0].parent
    # Without the dot pip might take a folder's name for that of a package on its index.
    place = folder if folder.is_absolute() else f"./{folder}"
    print(f"next  pip install -e '{place}[test]'\n      pytest {folder}")
