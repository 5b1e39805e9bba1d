"""The records as one HTML file that needs nothing else: it loads no file, no font and nothing from a network."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path

import plotly.offline
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prefopt.bench.report import ledger, tables, wording
from prefopt.bench.report.figures import figures
from prefopt.bench.report.wording import Record
from prefopt.errors import ConfigError

_SCRIPTS = ("theme.js", "plots.js", "panel.js", "tables.js")


def write(records: Iterable[Record], path: Path, landmarks: Collection[str] = ()) -> None:
    """Write the page, whole or not at all.

    Args:
        records: of the cells.
        path: of the file.
        landmarks: methods that readers know, whose curves are visible from the start beside the best few.

    Raises:
        ConfigError: there are no records, or the file cannot be written.
    """
    text = page(records, landmarks)
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, path)
    except OSError as error:
        raise ConfigError(f"cannot write the report to {str(path)!r}: {error.strerror or error}") from None


def page(records: Iterable[Record], landmarks: Collection[str] = ()) -> str:
    """The page's HTML.

    Raises:
        ConfigError: there are no records.
    """
    kept = list(records)
    results = wording.computed(kept)
    environment = Environment(
        loader=PackageLoader("prefopt.bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    sources = {name: _source(environment, name) for name in ("page.css", *_SCRIPTS)}
    scripts = [plotly.offline.get_plotlyjs(), "\n".join(sources[name] for name in _SCRIPTS)]
    boards = [(setting, tables.of_setting(results, setting)) for setting in results.settings]
    leaderboard = tables.leaderboard(results)
    shown = [table for table in (leaderboard, *(table for _, table in boards)) if table]
    return environment.get_template("page.html.jinja").render(
        results=results,
        facts=wording.facts(results),
        how_to_read=wording.how_to_read(results.totals, results.settings),
        omission=wording.omission,
        leaderboard=leaderboard,
        columns={column.title: column.explanation for table in shown for column in table.columns},
        sections=[
            ("tasks", "Tasks with a known optimum", [entry for entry in boards if entry[0].has_optimum]),
            ("language-models", "Language models", [entry for entry in boards if not entry[0].has_optimum]),
        ],
        pairs=results.pairs,
        wording=wording,
        ledger=ledger.ledger(kept, results),
        figures=figures(results, landmarks),
        style=Markup(sources["page.css"]),
        scripts=[Markup(script) for script in scripts],
        policy=_policy(scripts),
    )


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _policy(scripts: Iterable[str]) -> str:
    """The page's content security policy: these scripts by their digests and no other, and no request at all."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
