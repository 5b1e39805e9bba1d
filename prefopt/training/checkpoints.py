"""Checkpoints: the whole state of a run in a folder that is there complete or not at all."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from prefopt.config import CheckpointsConfig
from prefopt.engine.ranks import Ranks
from prefopt.errors import OutputError
from prefopt.reference.disk import sync_folder
from prefopt.training.output import as_json
from prefopt.training.snapshot import Snapshot

FORMAT = 1
FACTS = "checkpoint.json"
_PREFIX, _PARTIAL = "step-", ".partial-"
# What writing raises when a disk is full: each library its own.
_UNWRITABLE = (OSError, RuntimeError, SafetensorError, ValueError)


class Checkpoints:
    """Keeps snapshots of a run under `folder`/step-N, each process its own part, and deletes old ones.

    A checkpoint is written beside, flushed to disk and then renamed: whatever kills the run, those that are there are
    whole.
    """

    def __init__(self, folder: Path, settings: CheckpointsConfig, ranks: Ranks) -> None:
        """Write nothing yet.

        Args:
            folder: where they go.
            settings: when one is due, and how many stay.
            ranks: the processes of the run.
        """
        self._folder = folder
        self._settings = settings
        self._ranks = ranks
        self._kept_at = time.monotonic()
        self._kept_step: int | None = None

    @property
    def wanted(self) -> bool:
        """Whether the settings ask for any."""
        return self._settings.every_steps is not None or self._settings.every_minutes is not None

    def due(self, step: int) -> bool:
        """Whether one is to be kept after this step; where minutes count, the first process's clock decides."""
        steps, minutes = self._settings.every_steps, self._settings.every_minutes
        late = minutes is not None and time.monotonic() - self._kept_at >= 60 * minutes
        return (steps is not None and step % steps == 0) or (minutes is not None and self._ranks.first(late))

    def keep(self, taken: Snapshot, facts: Mapping[str, Any]) -> Path:
        """Write one, and delete those that are too old.

        Args:
            taken: this process's snapshot.
            facts: what else the run goes on from, the same in every process; plain values.

        Returns:
            Its folder.

        Raises:
            OutputError: it cannot be written; those before it are as they were.
        """
        folder = self._folder / f"{_PREFIX}{taken.step:08d}"
        if self._kept_step == taken.step:
            return folder
        partial = self._folder / f"{_PARTIAL}{folder.name}"

        def make() -> None:
            for left in self._folder.glob(f"{_PARTIAL}*"):  # of a run that was killed as it wrote
                shutil.rmtree(left, ignore_errors=True)
            partial.mkdir(parents=True)

        def finish() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
            sync_folder(self._folder)

        # Each part of it in all processes, and then all of them know whether one has failed.
        failure = (
            self._failed(make, self._ranks.index == 0)
            or self._failed(lambda: self._write(partial, taken, facts), True)
            or self._failed(finish, self._ranks.index == 0)
        )
        if failure:
            if self._ranks.index == 0:
                shutil.rmtree(partial, ignore_errors=True)
            last = latest(self._folder)
            raise OutputError(
                f"the checkpoint after step {taken.step} cannot be written into {str(self._folder)!r} "
                f"({failure}); "
                + (f"the last good one is {last.name}: make room and go on with --resume" if last else "make room")
            )
        if self._ranks.index == 0:
            self._delete_old(folder)
        self._ranks.wait()
        self._kept_at, self._kept_step = time.monotonic(), taken.step
        return folder

    def _failed(self, act: Callable[[], None], mine: bool) -> str:
        """Why an act failed in this process or in another; empty where it did not."""
        failure = ""
        try:
            if mine:
                act()
        except _UNWRITABLE as error:
            failure = " ".join(str(error).split())[:200] or type(error).__name__
        anywhere = self._ranks.any(bool(failure))
        return failure or ("another process failed" if anywhere else "")

    def _write(self, partial: Path, taken: Snapshot, facts: Mapping[str, Any]) -> None:
        written = []
        if taken.sharded or self._ranks.index == 0:
            weights, state = written = [partial / name for name in _files(self._ranks, taken.sharded)]
            save_file({name: value.contiguous() for name, value in taken.weights.items()}, weights)
            torch.save(taken.state, state)
        if self._ranks.index == 0:
            own = {"format": FORMAT, "step": taken.step, "num_processes": self._ranks.count, "sharded": taken.sharded}
            written.append(partial / FACTS)
            text = json.dumps(as_json({**own, **facts}), indent=2, allow_nan=False)
            written[-1].write_text(text + "\n", encoding="utf-8")
        for path in written:
            _flush(path)
        if written:
            sync_folder(partial)

    def _delete_old(self, newest: Path) -> None:
        if self._settings.keep_last is not None:
            for old in _all(self._folder)[: -self._settings.keep_last]:
                shutil.rmtree(old, ignore_errors=True)


def latest(folder: Path) -> Path | None:
    """The last checkpoint under `folder`; None where there is none."""
    found = _all(folder)
    return found[-1] if found else None


def read_facts(checkpoint: Path) -> dict[str, Any]:
    """What was kept beside a snapshot: `step`, `num_processes` and the run's own facts.

    Raises:
        OutputError: it cannot be read, or is in a format of another version.
    """
    try:
        facts: dict[str, Any] = json.loads((checkpoint / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(_damaged(checkpoint, error)) from error
    if facts.get("format") != FORMAT:
        raise OutputError(
            f"checkpoint {str(checkpoint)!r} has format {facts.get('format')}, and this version of prefopt reads "
            f"format {FORMAT}; go on with the version that wrote it"
        )
    return facts


def read_snapshot(checkpoint: Path, ranks: Ranks) -> Snapshot:
    """This process's part of a checkpoint.

    Raises:
        OutputError: it cannot be read, or holds the shards of another number of processes.
    """
    facts = read_facts(checkpoint)
    if facts["sharded"] and facts["num_processes"] != ranks.count:
        raise OutputError(
            f"checkpoint {str(checkpoint)!r} holds the shards of {facts['num_processes']} processes, and this run has "
            f"{ranks.count}; start as many as before"
        )
    weights, state = (checkpoint / name for name in _files(ranks, facts["sharded"]))
    try:
        kept = torch.load(state, map_location="cpu", weights_only=True)
        return Snapshot(facts["step"], facts["sharded"], load_file(weights), kept)
    except Exception as error:  # torch, pickle and safetensors raise their own
        raise OutputError(_damaged(checkpoint, error)) from error


def _files(ranks: Ranks, sharded: bool) -> list[str]:
    part = f"-{ranks.index + 1:05d}-of-{ranks.count:05d}" if sharded else ""
    return [f"weights{part}.safetensors", f"state{part}.pt"]


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*")) if folder.is_dir() else []


def _flush(path: Path) -> None:
    """Onto the disk, so that a rename never comes before what it names."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _damaged(checkpoint: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return f"checkpoint {str(checkpoint)!r} cannot be read ({reason}); delete it to go on from the one before"
