from __future__ import annotations

from prefopt.cli.terminal import TerminalWatcher, in_words
from prefopt.evaluation.rewards import RewardReport


def test_a_report_fits_a_narrow_terminal():
    report = RewardReport(loss=123.4567, num_pairs=679, accuracy=0.5, interval=(0.462, 0.538), margin=-12.3456)
    line = f"{'before':7} {in_words(report)}"
    assert "reward accuracy 0.500 [0.462, 0.538]" in line
    assert len(line) <= 80


def test_no_bar_is_drawn_where_there_is_no_terminal(capsys):
    watcher = TerminalWatcher()
    watcher.begin(3)
    watcher.step({"step": 1, "loss": 0.5, "num_tokens": 10, "step_seconds": 0.1})
    watcher.end()
    assert capsys.readouterr() == ("", "")


def test_braces_in_a_line_are_text(capsys):
    TerminalWatcher().say("rows [bold]3[/bold]")
    assert capsys.readouterr().err == "rows [bold]3[/bold]\n"
