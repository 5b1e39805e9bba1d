from __future__ import annotations

import io

from rich.console import Console

from prefopt.report import print_summary, read_runs
from tests.report.runs import write_run


def shown(runs, width=80):
    console = Console(width=width, markup=False, highlight=False, record=True, file=io.StringIO())
    print_summary(runs, console)
    return console.export_text()


def test_it_fits_80_columns_and_names_every_run_with_what_differs(tmp_path):
    names = ["dpo", "a-rather-long-name-of-a-run-with-everything-in-it", "simpo", "kto", "fifth"]
    losses = ["dpo", "dpo", "simpo", "kto", "dpo"]
    folders = [write_run(tmp_path / name, loss=loss) for name, loss in zip(names, losses, strict=True)]
    text = shown(read_runs(folders))
    assert max(map(len, text.splitlines())) <= 80
    for part in ("a-rather-long-name", "simpo", "kto", "fifth", "loss.name", "in different"):
        assert part in text, part


def test_it_says_what_is_missing(tmp_path):
    text = shown(read_runs([write_run(tmp_path / "a", finished=False, cut=True)]))
    assert "a: no run.json: the run is not finished" in text
    assert "not finished" in text
    assert "different units" not in text
