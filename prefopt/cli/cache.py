"""`prefopt cache info`, `verify` and `gc`: the store of reference log-probs."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich import filesize
from rich.console import Console
from rich.table import Table

from prefopt.cli.options import Overrides, PluginFiles
from prefopt.cli.settings import read_settings
from prefopt.errors import StoreError, unknown_name
from prefopt.reference.catalogue import Holding, catalogue, removable, seconds
from prefopt.reference.mirror import Mirror, default_cache_dir

cache = typer.Typer(help="What is stored of reference log-probs, whether it still holds, what can go.")

CacheDir = Annotated[
    str | None, typer.Option("--cache-dir", metavar="PLACE", help="The store, if not ~/.cache/prefopt/references.")
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


@cache.command()
def info(cache_dir: CacheDir = None, as_json: AsJson = False) -> None:
    """List the references a store holds values of: completions, size, age."""
    place = cache_dir or default_cache_dir()
    found = catalogue(place)
    if as_json:
        print(json.dumps({"store": place, "references": [one.as_dict() for one in found]}, indent=2))
        return
    if not found:
        print(f"nothing is stored in {place}")
        return
    drawn = sys.stdout.isatty()  # whoever reads the lines of a pipe gets whole names
    table = Table(box=None, pad_edge=False, header_style="bold", expand=drawn)
    table.add_column("reference", no_wrap=True)
    table.add_column("model", no_wrap=True, overflow="ellipsis", ratio=1 if drawn else None)
    table.add_column("dtype", no_wrap=True)
    for column in ("completions", "size", "shards", "age"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in found:
        table.add_row(
            one.identity[:12],
            _name(one),
            one.made_by.get("dtype", "?"),
            f"{one.num_completions:,}",
            filesize.decimal(one.num_bytes),
            str(one.num_shards),
            _age(one.newest),
        )
    Console(markup=False, highlight=False, width=None if drawn else 1000).print(table)
    for one in found:
        for why in (*one.damaged.values(), *one.foreign.values()):
            print(why)
        if one.abandoned:
            left = _count(len(one.abandoned), "half-written file")
            print(f"{left} of {one.identity[:12]}: `prefopt cache gc --yes` removes what interrupted writers leave")
    print(f"store {place}")


@cache.command()
def verify(
    config: Annotated[str | None, typer.Argument(help="Also score a sample of this config's rows again.")] = None,
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="How many rows to score again.")] = 8,
    cache_dir: CacheDir = None,
    plugin: PluginFiles = None,
) -> None:
    """Hold every byte of a store against its checksums; with a config, also a sample against its reference model."""
    settings = None
    if config is not None:
        settings, loss, _ = read_settings(config, overrides, plugin)
        cache_dir = cache_dir or settings.reference.cache_dir
    place = cache_dir or default_cache_dir()
    found = catalogue(place, whole=True)
    for one in found:
        broken = f"{len(one.damaged):,} of {_count(len(one.written), 'shard')} damaged; " if one.damaged else ""
        whole = f"{one.num_completions:,} completions in {_count(one.num_shards, 'shard')} are as written, every byte"
        print(f"{one.identity[:12]}  {_name(one)}: {broken}{whole}")
    damaged = [why for one in found for why in (*one.damaged.values(), *one.foreign.values())]
    for why in damaged:
        print(why)
    if damaged:
        raise StoreError(f"{_count(len(damaged), 'shard')} of {place} cannot be used")
    if not found:
        raise StoreError(f"nothing is stored in {place}; there is nothing to verify")
    if settings is not None:
        from prefopt.cli.terminal import TerminalWatcher, quieten
        from prefopt.precompute import rescore

        quieten()
        checked, gap = rescore(settings, loss, num_rows=rows, say=TerminalWatcher().say, cache_dir=place)
        print(f"{checked} rows scored again: they differ by at most {gap:.1e} nats a token (root mean square)")


@cache.command()
def gc(
    cache_dir: CacheDir = None,
    reference: Annotated[
        list[str] | None, typer.Option("--reference", metavar="ID", help="Of this reference only; may be repeated.")
    ] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="AGE", help="Shards written so long ago: 30d, 12h, 15m.")
    ] = None,
    damaged: Annotated[bool, typer.Option("--damaged", help="Shards that cannot be used.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, what would go is only listed.")] = False,
) -> None:
    """Delete shards by reference and age, damaged ones, and what interrupted writers left; list them first."""
    place = cache_dir or default_cache_dir()
    age = None if older_than is None else seconds(older_than)
    found = catalogue(place, whole=damaged)
    chosen = _chosen(found, reference or [])
    going = {
        one.identity: removable(one, everything=bool(reference) and not damaged, older_than=age, damaged=damaged)
        for one in chosen
    }
    num_files = sum(map(len, going.values()))
    if not num_files:
        chosen_nothing = not (reference or older_than or damaged)
        hint = "; choose shards with --reference, --older-than or --damaged" if found and chosen_nothing else ""
        print(f"nothing to delete in {place}{hint}")
        return
    for one in chosen:
        if going[one.identity]:
            print(f"{one.identity[:12]}  {_name(one)}: {_in_words(one, going[one.identity])}")
    if not yes:
        print("nothing was deleted; add --yes to delete this")
        return
    broken = {path for one in chosen for path in one.damaged}
    for identity, paths in going.items():
        mirror = Mirror(place, identity)
        for path in paths:
            mirror.remove(path, damaged=path in broken)
    print(f"deleted {_count(num_files, 'file')}")


def _in_words(one: Holding, paths: list[Path]) -> str:
    """What goes of a reference: kinds, sizes and ages."""
    kinds = {
        "half-written file": [path for path in paths if path in one.abandoned],
        "damaged shard": [path for path in paths if path in one.damaged],
        "shard": [path for path in paths if path in one.written and path not in one.damaged],
    }
    told = []
    for kind, found in kinds.items():
        if found:
            seen = [path.stat() for path in found]
            ages = [_age(max(file.st_mtime for file in seen)), _age(min(file.st_mtime for file in seen))]
            old = ages[0] if ages[0] == ages[1] else " to ".join(ages)
            told.append(
                f"{_count(len(found), kind)}, {filesize.decimal(sum(file.st_size for file in seen))}, {old} old"
            )
    return "; ".join(told)


def _chosen(found: list[Holding], wanted: list[str]) -> list[Holding]:
    if not wanted:
        return found
    chosen: list[Holding] = []
    for prefix in wanted:
        matching = [one for one in found if prefix and one.identity.startswith(prefix)]
        if not matching:
            raise StoreError(unknown_name("reference", prefix, [one.identity[:12] for one in found]))
        if len(matching) > 1:
            raise StoreError(
                f"reference {prefix!r} is {' or '.join(one.identity[:12] for one in matching)}; write more"
            )
        chosen += [one for one in matching if one not in chosen]
    return chosen


def _name(one: Holding) -> str:
    name = "/".join(Path(one.made_by.get("name", "unreadable")).parts[-2:])
    return f"{name} with adapter {one.made_by['adapter'][:8]}" if "adapter" in one.made_by else name


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _age(written: float) -> str:
    past = max(0.0, time.time() - written)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if past >= length:
            return f"{past / length:.0f} {unit}"
    return f"{past:.0f} s"
