"""The commands, and how an error leaves the program: one sentence on stderr and a non-zero exit code."""

from __future__ import annotations

import os
import sys

import typer

from prefopt.cli.bench import bench
from prefopt.cli.cache import cache
from prefopt.cli.check import check
from prefopt.cli.evaluate import evaluate
from prefopt.cli.losses import losses
from prefopt.cli.new import new
from prefopt.cli.plan import plan
from prefopt.cli.plugins import plugins
from prefopt.cli.precompute import precompute
from prefopt.cli.report import report
from prefopt.cli.schema import schema
from prefopt.cli.train import train
from prefopt.errors import PrefoptError, in_one_line

app = typer.Typer(
    name="prefopt",
    help="Preference-optimisation losses as verified plugins, and one engine that runs any of them exactly.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (train, precompute, plan, evaluate, report, losses, plugins, check, schema):
    app.command()(command)
app.add_typer(bench, name="bench", no_args_is_help=True)
app.add_typer(cache, name="cache", no_args_is_help=True)
app.add_typer(new, name="new", no_args_is_help=True)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except (PrefoptError, OSError) as error:
        # What a disk or a network does to a file is the user's to mend, wherever it is met.
        said = in_one_line(str(error))
        if isinstance(error, OSError) and error.filename is not None:
            said = in_one_line(f"{str(error.filename)!r}: {error.strerror}")
        # Of several processes each would say the same; what only one of them met is marked as its own.
        rank = int(os.environ.get("RANK", "0"))
        print(f"error: {said}" if rank == 0 else f"error in process {rank}: {said}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # while libraries are still being loaded
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
