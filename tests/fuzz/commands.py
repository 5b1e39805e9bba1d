"""The command line as a person meets it, in this process or in one of its own, and what it may never do."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from prefopt.cli.app import app, main

CPU_SECONDS = 120.0  # what no command on a model this small takes: it hangs

COMMANDS = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}


class Hangs(BaseException):
    """Not an Exception, so that nothing on its way takes it for one it knows."""


@dataclass
class Outcome:
    """What a command left: exit code, what it printed, and what it should never have let through."""

    code: int | None
    out: str
    err: str
    raised: BaseException | None = None
    warned: list[str] = field(default_factory=list)

    @property
    def error(self) -> str:
        """The last line on stderr."""
        return self.err.rstrip("\n").rpartition("\n")[2]


def run(*arguments: str) -> Outcome:
    """`prefopt ...` in this process."""
    # What a process has: stderr takes every character, stdout only valid text.
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors=errors) for errors in ("strict", "backslashreplace"))
    code: int | None = 0
    raised = None
    with (
        patch.object(sys, "argv", ["prefopt", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(record=True) as caught,
        _stopped_after(CPU_SECONDS),
    ):
        warnings.simplefilter("default")
        for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", hidden)  # as Python does where it is not asked to show them
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except (Exception, Hangs) as error:
            code, raised = None, error
    for stream in (out, err):
        stream.flush()
    printed = [stream.buffer.getvalue().decode("utf-8") for stream in (out, err)]  # type: ignore[attr-defined]
    return Outcome(code, *printed, raised, [f"{one.category.__name__}: {one.message}" for one in caught])


def run_process(*arguments: str, timeout: float = 280) -> Outcome:
    """`python -m prefopt ...` as a shell starts it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "prefopt", *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
        env=environment,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def check_manners(outcome: Outcome) -> None:
    """No traceback, no warning of a library, one of the exit codes, and one sentence where it is 1."""
    if outcome.raised is not None:
        raise outcome.raised
    assert "Traceback" not in outcome.out + outcome.err, outcome.err
    assert not outcome.warned, outcome.warned
    assert "Warning:" not in outcome.err, outcome.err
    said = [line for line in outcome.err.splitlines() if line.startswith("error:")]
    if outcome.code == 0:
        assert not said, outcome.err
    elif outcome.code == 1:
        assert len(said) == 1, outcome.err
        assert outcome.error == said[0], f"the error is not the last line, or has several: {outcome.err!r}"
        assert len(said[0]) > len("error: ") + 10, outcome.err
        assert len(said[0]) < 3000, f"an error of {len(said[0])} characters is no sentence: {said[0][:300]}"
    else:
        assert outcome.code == 2, (outcome.code, outcome.err)
        assert outcome.err.startswith("Usage:"), outcome.err


def check_trained(folder: Path, *, num_steps: int | None = None) -> None:
    """What a finished run promises lies there, and every number of its steps is one."""
    assert {"config.resolved.yaml", "metrics.jsonl", "run.json"} <= {path.name for path in folder.iterdir()}
    assert list(folder.glob("*model*.safetensors"))
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line, parse_constant=_refuse) for line in lines]
    assert steps
    assert all(math.isfinite(step["loss"]) for step in steps)
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"), parse_constant=_refuse)
    assert record["num_steps"] == len(steps) == (num_steps or len(steps))


def check_untrained(folder: Path) -> None:
    """Nothing that could be taken for a trained model."""
    if folder.is_dir():
        left = {path.name for path in folder.iterdir()}
        assert not left & {"run.json", "model.safetensors", "adapter_model.safetensors"}, left


def _refuse(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


@contextlib.contextmanager
def _stopped_after(cpu_seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hangs(f"more than {cpu_seconds} s of computing")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def shell_line(arguments: Sequence[str]) -> str:
    """For messages."""
    return " ".join(map(repr, ("prefopt", *arguments)))
