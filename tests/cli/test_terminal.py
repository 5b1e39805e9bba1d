from __future__ import annotations

import io

from rich.console import Console
from rich.text import Text

from prefopt.cli.terminal import TerminalWatcher, in_words
from prefopt.evaluation.rewards import RewardReport


def test_a_report_fits_a_narrow_terminal():
    report = RewardReport(loss=123.4567, num_pairs=679, accuracy=0.5, interval=(0.462, 0.538), margin=-12.3456)
    line = f"{'before':7} {in_words(report.as_dict())}"
    assert "reward accuracy 0.500 [0.462, 0.538]" in line
    assert len(line) <= 80


def test_no_bar_is_drawn_where_there_is_no_terminal(capsys):
    watcher = TerminalWatcher()
    watcher.begin("train", 3)
    watcher.step({"step": 1, "loss": 0.5, "num_tokens": 10, "step_seconds": 0.1})
    watcher.end()
    assert capsys.readouterr() == ("", "")


def test_braces_in_a_line_are_text(capsys):
    TerminalWatcher().say("rows [bold]3[/bold]")
    assert capsys.readouterr().err == "rows [bold]3[/bold]\n"


def test_scoring_without_a_terminal_says_where_it_is_every_minute(capsys, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("prefopt.cli.terminal.time.monotonic", lambda: now[0])
    watcher = TerminalWatcher()
    for total, told in ((100, "40 of 100 rows, 0.5 rows/s, 2 min left"), (None, "40 rows, 0.5 rows/s")):
        watcher.begin("score", total)
        now[0] += 30
        watcher.scored(20, 20)
        assert capsys.readouterr().err == ""
        now[0] += 30
        watcher.scored(20, 10)
        assert capsys.readouterr().err == f"score   {told}\n"
        watcher.end()


def test_the_scoring_bar_fits_80_columns(monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    watcher = TerminalWatcher()
    monkeypatch.setattr(watcher, "_console", console)
    for total in (123_456, None):
        watcher.begin("score", total)
        watcher.scored(1234, 1234)
        watcher.end()
    text = console.file.getvalue()
    assert "rows/s" in text
    assert "1234/123456" in text
    assert all(len(Text.from_ansi(line)) <= 80 for line in text.replace("\r", "\n").split("\n"))
