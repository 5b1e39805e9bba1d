from __future__ import annotations

import subprocess
import sys

import pytest

from prefopt.cli.report import report
from prefopt.errors import ConfigError
from tests.report.runs import write_run


def test_one_run_has_its_page_in_its_folder(tmp_path, capsys):
    folder = write_run(tmp_path / "dpo")
    report([str(folder)])
    assert "<h1>prefopt report" in (folder / "report.html").read_text()
    out = capsys.readouterr().out
    assert out.endswith(f"\nreport: {folder / 'report.html'}\n")
    assert "held-out accuracy" in out


def test_several_runs_have_it_beside_them(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "dpo")
    write_run(tmp_path / "runs" / "kto", loss="kto")
    report(["runs/dpo", "runs/kto"])
    assert (tmp_path / "runs" / "report.html").exists()
    assert capsys.readouterr().out.endswith("\nreport: runs/report.html\n")


def test_the_page_goes_where_it_is_told(tmp_path):
    report([str(write_run(tmp_path / "dpo"))], output=str(tmp_path / "there" / "page.html"))
    assert (tmp_path / "there" / "page.html").exists()


def test_no_such_folder(tmp_path):
    write_run(tmp_path / "dpo")
    with pytest.raises(ConfigError, match="did you mean"):
        report([str(tmp_path / "dpoo")])


def test_no_model_library_is_loaded(tmp_path):
    folder = write_run(tmp_path / "dpo")
    code = f"import sys; from prefopt.cli.report import report; report([{str(folder)!r}])"
    code += "; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
