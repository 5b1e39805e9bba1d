"""`prefopt losses`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from prefopt import docstrings, pages
from prefopt.cli.options import PluginFiles
from prefopt.errors import ConfigError
from prefopt.loss import Loss
from prefopt.registry import Registry, load_registry


def losses(
    name: Annotated[str | None, typer.Argument(help="Show this loss alone, with all it documents.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown: a table, or the loss's page.")] = False,
    folder: Annotated[
        Path | None, typer.Option("--pages", metavar="FOLDER", help="Write every loss's page and an index there.")
    ] = None,
    plugin: PluginFiles = None,
) -> None:
    """List the losses there are, or show one."""
    if as_json + as_markdown + (folder is not None) > 1:
        raise ConfigError("--json, --markdown and --pages exclude each other")
    if folder is not None and name is not None:
        raise ConfigError(f"--pages writes the pages of all losses; `prefopt losses {name} --markdown` prints one")
    registry = load_registry(plugin or ())
    chosen = [registry.losses[key] for key in sorted(registry.losses)] if name is None else [registry.loss_class(name)]
    if as_json:
        data = [docstrings.as_data(loss) | {"plugin": registry.plugin_of(loss.name).name} for loss in chosen]
        print(json.dumps(data if name is None else data[0], indent=2, ensure_ascii=False))
    elif folder is not None:
        _write(chosen, folder)
    elif as_markdown:
        print(markdown(chosen) if name is None else pages.page(chosen[0]), end="\n" if name is None else "")
    elif name is not None:
        _show(chosen[0], registry)
    else:
        _list(chosen, registry)


def markdown(chosen: Iterable[type[Loss]]) -> str:
    """The table of the README: the losses by what they read, each with a link to its page."""
    groups: dict[str, list[str]] = {
        "pairs and a reference": [],
        "pairs alone": [],
        "labels": [],
        "rankings": [],
        "demonstrations": [],
    }
    for loss in chosen:
        pairs = "pairs and a reference" if loss.needs.reference else "pairs alone"
        others = [kind for kind in ("demonstrations", "labels", "rankings") if kind in set(loss.needs.rows)]
        groups[[*others, pairs][0]].append(f"[`{loss.name}`](docs/losses/{loss.name}.md)")
    lines = [f"| {reads} | {', '.join(links)} |" for reads, links in groups.items() if links]
    return "\n".join(["| reads | losses |", "|---|---|", *lines])


def _write(chosen: list[type[Loss]], folder: Path) -> None:
    written = {f"{loss.name}.md": pages.page(loss) for loss in chosen} | {"README.md": pages.index(chosen)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in written.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ConfigError(f"cannot write the pages to {str(folder)!r}: {error.strerror}") from None
    print(f"wrote {len(chosen)} pages and README.md to {folder}")


def _list(chosen: list[type[Loss]], registry: Registry) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("loss", "reads", "arXiv"):
        table.add_column(column, overflow="fold")
    table.add_column("from", overflow="ellipsis", no_wrap=True)
    for loss in chosen:
        brought_by = Path(registry.plugin_of(loss.name).name.partition(":")[0]).name
        table.add_row(loss.name, docstrings.needs_in_words(loss), docstrings.arxiv_id(loss), brought_by)
    console = Console(markup=False, highlight=False)
    console.print(table)
    for broken in registry.broken:
        console.print(f"failed to load: {broken.name}: {broken.error}", soft_wrap=True)
    for sentence in registry.left_out:
        console.print(f"left out: {sentence}", soft_wrap=True)


def _show(loss: type[Loss], registry: Registry) -> None:
    plugin = registry.plugin_of(loss.name)
    print(f"{loss.name}: {docstrings.summary(loss)}\n")
    print(f"reads   {docstrings.needs_in_words(loss)}")
    print(f"plugin  {plugin.name} {plugin.version}")
    for field in docstrings.hyperparameters(loss):
        print(f"field   {field['name']} = {field['default']}  ({field['range']})")
    for relation in docstrings.relations_in_words(loss):
        print(f"equals  {relation}")
    for check, why in loss.expected_failures.items():
        print(f"fails   {check}: {why}")
    for title, text in docstrings.sections(loss).items():
        body = text.replace("\n", "\n  ")
        print(f"\n{title}\n  {body}")
