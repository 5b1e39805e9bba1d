"""The output folder: what a run leaves behind, and when it refuses to write."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefopt.errors import ConfigError, OutputError

CHECKPOINTS, BEST, LISTING = "checkpoints", "best", "rows.jsonl"
TRACKER_IDS, TENSORBOARD = "trackers.json", "tensorboard"
CONFIG, METRICS, RUN, LAST_GOOD = "config.resolved.yaml", "metrics.jsonl", "run.json", "last_good"
LOSS_STATE = "loss_state.safetensors"

# What a run leaves behind, the files of `save_pretrained` included.
_WRITTEN = (
    *(CONFIG, METRICS, RUN, LISTING, "rows.*.jsonl", TRACKER_IDS, LOSS_STATE, "evaluation.json"),
    *("config.json", "generation_config.json", "chat_template.jinja"),
    *("model*.safetensors", "model.safetensors.index.json", "tokenizer*", "special_tokens_map.json"),
    *("adapter_config.json", "adapter_model.safetensors", "README.md"),
    *("added_tokens.json", "vocab.*", "merges.txt", "spiece.model"),
)


def check_free(folder: Path, *, overwrite: bool, inputs: Iterable[str] = ()) -> None:
    """Refuse a folder that holds something, before any work is done.

    Args:
        folder: where a run wants to write.
        overwrite: an earlier run there may go; anything else may not.
        inputs: what the run reads; a folder that holds any of it is never overwritten.

    Raises:
        ConfigError: the folder is not free.
    """
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not there.is_dir():
            where = "is a file" if there == folder else f"lies below {str(there)!r}, which is a file"
            raise ConfigError(f"output_dir {str(folder)!r} {where}; it must be a folder")
        if there != folder or all(entry.name.endswith(".partial") for entry in folder.iterdir()):
            return
    except OSError as error:  # a name too long, or a folder that may not be read
        raise ConfigError(f"output_dir {str(folder)!r} cannot be used: {error.strerror or error}") from error
    if not overwrite:
        kept = any((folder / CHECKPOINTS).glob("step-*"))
        resume = " pass --resume to go on after its last checkpoint," if kept else ""
        raise ConfigError(
            f"output_dir {str(folder)!r} is not empty;{resume} choose another one, or pass --overwrite to replace the "
            "run in it"
        )
    if not (folder / CONFIG).exists():
        raise ConfigError(
            f"output_dir {str(folder)!r} holds no run (no {CONFIG}), so --overwrite leaves it alone; choose another one"
        )
    for source in inputs:
        if Path(source).resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"output_dir {str(folder)!r} holds {source!r}, which this run reads; choose another one")


def save_state(state: Mapping[str, Tensor], folder: Path) -> None:
    """Keep what the loss carries from step to step beside the weights it belongs to; nothing where it carries none."""
    if state:
        own = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        try:
            save_file(own, folder / LOSS_STATE)
        except (OSError, SafetensorError) as error:
            raise OutputError(f"{str(folder / LOSS_STATE)!r} cannot be written: {error}") from error


def load_state(folder: Path) -> dict[str, Tensor]:
    """What `save_state` kept, exactly; empty where the loss carries nothing."""
    path = folder / LOSS_STATE
    return load_file(path) if path.exists() else {}


def clear(folder: Path) -> None:
    """Make the folder, without the files of an earlier run; what a run never writes stays.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in _WRITTEN:
            for file in folder.glob(pattern):
                if file.name != CONFIG:  # by which the folder is known as a run's; the next one replaces it
                    file.unlink()
        for name in (LAST_GOOD, CHECKPOINTS, BEST, f".{BEST}.partial", f".{BEST}.old", TENSORBOARD):
            if (folder / name).exists():
                shutil.rmtree(folder / name)
    except OSError as error:
        raise ConfigError(f"output_dir {str(folder)!r} cannot be written: {error.strerror or error}") from error


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(path, json.dumps(as_json(values), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        # Half a surrogate pair, which a bad row's JSON can hold, is written as JSON writes it.
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OutputError(f"{str(path)!r} cannot be written: {error.strerror or error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote.

    Raises:
        OutputError: it cannot be read.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{str(path)!r} cannot be read: {' '.join(str(error).split())}") from error
    return values


class MetricsLog:
    """`metrics.jsonl`: one object a step, on disk as soon as the step is done."""

    def __init__(self, path: Path | None) -> None:
        """Open `path` for appending; None: nothing is written."""
        self._path = path
        self._file: IO[str] | None = None

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one step.

        Raises:
            OutputError: it cannot be written.
        """
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(as_json(values), allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise OutputError(f"{str(self._path)!r} cannot be written: {error.strerror or error}") from error

    def flush(self) -> None:
        """Have all of it outlive a power cut, as a checkpoint does."""
        if self._file is not None:
            with suppress(OSError):  # of a full disk, which `write` has told
                os.fsync(self._file.fileno())

    def __enter__(self) -> MetricsLog:
        if self._path is not None:
            try:
                self._file = self._path.open("a", encoding="utf-8")
            except OSError as error:
                raise OutputError(f"{str(self._path)!r} cannot be written: {error.strerror or error}") from error
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._file is not None:
            with suppress(OSError):  # of a full disk, which `write` has told
                self._file.close()


def as_json(value: Any) -> Any:
    """The value with null for what JSON has no number for, such as a reward that is infinite at the extreme."""
    if isinstance(value, Mapping):
        return {key: as_json(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cut_metrics(path: Path, step: int) -> None:
    """Leave the lines up to `step`, where a run goes on after a checkpoint older than its last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if json.loads(line)["step"] > step:
                break
        except ValueError:  # cut off as the run was killed
            break
        kept.append(line)
    write_text(path, "".join(kept))
