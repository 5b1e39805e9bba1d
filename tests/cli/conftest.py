from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefopt.cli.app import main


@dataclasses.dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one sentence a failed command ends with."""
        assert self.code != 0, self.err
        assert "Traceback" not in self.err
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return line


@pytest.fixture
def prefopt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs the command line in this process."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["prefopt", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def write_config(tmp_path: Path, model_folder: Path) -> Callable[..., Path]:
    """A config for three quick steps, with changes."""

    def write(train: Path | str, **changes: Any) -> Path:
        values = {
            "model": str(model_folder),
            "data": {"train": str(train), "max_length": 64},
            "loss": "dpo",
            "training": {"batch_size": 4, "learning_rate": 1e-3, "tokens_per_microbatch": 256},
            "output_dir": str(tmp_path / "out"),
        }
        for key, value in changes.items():
            values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write
