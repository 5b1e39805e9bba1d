"""`prefopt losses`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from prefopt import docstrings
from prefopt.cli.options import PluginFiles
from prefopt.errors import ConfigError
from prefopt.loss import Loss
from prefopt.registry import Registry, load_registry


def losses(
    name: Annotated[str | None, typer.Argument(help="Show this loss alone, with all it documents.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
    plugin: PluginFiles = None,
) -> None:
    """List the losses there are, or show one."""
    if as_json and as_markdown:
        raise ConfigError("--json and --markdown exclude each other")
    registry = load_registry(plugin or ())
    chosen = [registry.losses[key] for key in sorted(registry.losses)] if name is None else [registry.loss_class(name)]
    if as_json:
        data = [docstrings.as_data(loss) | {"plugin": registry.plugin_of(loss.name).name} for loss in chosen]
        print(json.dumps(data if name is None else data[0], indent=2, ensure_ascii=False))
    elif as_markdown:
        print(markdown(chosen))
    elif name is not None:
        _show(chosen[0], registry)
    else:
        _list(chosen, registry)


def markdown(chosen: list[type[Loss]]) -> str:
    """The table of the README."""
    lines = ["| loss | reads | hyper-parameters | source | gradient |", "|---|---|---|---|---|"]
    for loss in chosen:
        fields = ", ".join(f"`{field['name']}` {field['default']}" for field in docstrings.hyperparameters(loss))
        arxiv = docstrings.arxiv_id(loss)
        source = f"[{arxiv}](https://arxiv.org/abs/{arxiv})" if arxiv else ""
        checked = "closed form" if docstrings.closed_form(loss) else "autograd"
        lines.append(f"| `{loss.name}` | {docstrings.needs_in_words(loss)} | {fields} | {source} | {checked} |")
    return "\n".join(lines)


def _list(chosen: list[type[Loss]], registry: Registry) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("loss", "reads", "arXiv", "plugin"):
        table.add_column(column, overflow="fold")
    for loss in chosen:
        table.add_row(
            loss.name, docstrings.needs_in_words(loss), docstrings.arxiv_id(loss), registry.plugin_of(loss.name).name
        )
    console = Console()
    console.print(table)
    for broken in registry.broken:
        console.print(f"failed to load: {broken.name}: {broken.error}", markup=False, highlight=False, soft_wrap=True)


def _show(loss: type[Loss], registry: Registry) -> None:
    plugin = registry.plugin_of(loss.name)
    print(f"{loss.name}: {docstrings.summary(loss)}\n")
    print(f"reads   {docstrings.needs_in_words(loss)}")
    print(f"plugin  {plugin.name} {plugin.version}")
    for field in docstrings.hyperparameters(loss):
        print(f"field   {field['name']} = {field['default']}  ({field['range']})")
    for title, text in docstrings.sections(loss).items():
        body = text.replace("\n", "\n  ")
        print(f"\n{title}\n  {body}")
