"""`prefopt plan`."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from prefopt.cli.options import ConfigFile, Overrides, PluginFiles
from prefopt.cli.settings import read_settings


def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    plugin: PluginFiles = None,
    processes: Annotated[int, typer.Option(help="Processes that share every batch.")] = 1,
    sharding: Annotated[Literal["ddp", "fsdp"], typer.Option(help="How they hold the model.")] = "ddp",
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option(help="Where the run will compute; absent: as on this machine.")
    ] = None,
    tflops: Annotated[
        float | None, typer.Option(help="TFLOP/s that all processes reach together; adds the time.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Print what a run will take, before any weight is loaded.

    Memory by part, tokens and arithmetic, with the reference live and stored side by side. Configs, the tokenizer and
    the rows are read; the model is gone through without its weights.
    """
    settings, loss, _ = read_settings(config, overrides, plugin)

    from prefopt.cli.terminal import quieten
    from prefopt.plan.forecast import forecast
    from prefopt.plan.page import as_data, lines

    quieten()
    found = forecast(settings, loss, processes=processes, sharding=sharding, device=device)
    rate = None if tflops is None else tflops * 1e12
    if as_json:
        print(json.dumps(as_data(found, rate), indent=2))
    else:
        for line in lines(found, rate):
            print(line)
