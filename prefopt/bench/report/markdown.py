"""The tables as Markdown, for a README."""

from __future__ import annotations

import re
from collections.abc import Iterable

from prefopt.bench.report import tables, wording
from prefopt.bench.report.tables import Line, Table
from prefopt.bench.report.wording import Record


def markdown(records: Iterable[Record]) -> str:
    """The leaderboard, a table per task setting, and what failed.

    Raises:
        ConfigError: there are no records.
    """
    results = wording.computed(records)
    parts = [" · ".join(f"{_plain(term)}: {_plain(text)}" for term, text in wording.facts(results).items())]
    board = tables.leaderboard(results)
    if board is not None:
        parts += [_table(board), _plain(board.verdict), _plain(board.power), _KEY]
    for setting in results.settings:
        part = tables.of_setting(results, setting)
        summary = f"<details><summary>{_plain(setting.label)}</summary>"
        parts += [summary, _table(part), _plain(f"{part.verdict} {part.power}"), "</details>"]
    for title, found in (("Failed", results.failed), ("Not in the numbers", results.missing)):
        if found:
            parts += [f"{title}:", "\n".join(f"- {_plain(wording.omission(each, results))}" for each in found)]
    parts.append(_plain(wording.how_to_read(results.totals, results.settings)))
    return "\n\n".join(parts) + "\n"


_KEY = "**bold**: best, or no difference found; *italic*: reads the true reward, a bound; †: did not run on all of it."


def _table(table: Table) -> str:
    keys = [column.key for column in table.columns if column.key != "method"]
    heads = [column.title for column in table.columns]
    rows = [[_name(line), *(_plain(line.fields[key].text) for key in keys)] for line in table.lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])


def _name(line: Line) -> str:
    mark = {"best": "**", "tied": "**", "bound": "*", "behind": ""}[line.kind]
    return f"{mark}{_plain(line.method)}{mark}{'†' if line.partial else ''}"


def _plain(text: str) -> str:
    """Text that Markdown shows as it stands, on one line."""
    return re.sub(r"[\\`*|&]|(?<![^\W_])_|_(?![^\W_])|<(?=[\w/!?])|(?<=\])\(", r"\\\g<0>", " ".join(text.split()))
