"""`prefopt evaluate`."""

from __future__ import annotations

from typing import Annotated

import typer

from prefopt.cli.options import ConfigFile, Overrides, PluginFiles
from prefopt.cli.settings import read_settings
from prefopt.objective import provenance


def evaluate(
    config: ConfigFile,
    overrides: Overrides = None,
    plugin: PluginFiles = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="PATH", help="The model to evaluate; default: the one in output_dir."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="FILE", help="Where the numbers go; default: output_dir/evaluation.json."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the numbers of an earlier evaluation.")
    ] = False,
) -> None:
    """Measure a trained model on held-out rows against its reference.

    Reward accuracy, margins, calibration, displacement and KL; with evaluation.judge also how often a judge prefers
    what the model writes. Interrupt it whenever you like: what was judged is kept.
    """
    settings, loss, registry = read_settings(config, overrides, plugin)

    from prefopt.cli.evaluation_summary import summary
    from prefopt.cli.terminal import TerminalWatcher, quieten, stopped_by_sigterm
    from prefopt.evaluate import EVALUATION
    from prefopt.evaluate import evaluate as measure

    quieten()
    watcher = TerminalWatcher()
    try:
        with stopped_by_sigterm():
            found = measure(
                settings,
                loss,
                model=model,
                output=output,
                overwrite=overwrite,
                watcher=watcher,
                provenance=provenance(settings, registry),
            )
    except KeyboardInterrupt:
        watcher.say("interrupted")
        raise typer.Exit(130) from None
    print("\n".join(summary(found)))
    watcher.say(f"wrote   {output or f'{settings.output_dir}/{EVALUATION}'}")
