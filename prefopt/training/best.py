"""The best model so far, kept beside the run as it goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prefopt.engine.ranks import Ranks
from prefopt.training.output import read_json, write_json

ABOUT = "best.json"


class Best:
    """Keeps the model that did best on the held-out rows."""

    def __init__(self, folder: Path, measure: str | None, ranks: Ranks) -> None:
        """Nothing is best yet.

        Args:
            folder: where the model goes, in Hugging Face format, with best.json.
            measure: `loss`, `reward_accuracy` or `reward_margin`; None: nothing is kept.
            ranks: the processes of the run.
        """
        self._folder = folder
        self._measure = measure
        self._ranks = ranks
        self.value: float | None = None

    @property
    def state(self) -> dict[str, Any]:
        """What `go_on` takes."""
        return {"measure": self._measure, "value": self.value}

    def go_on(self, step: int, state: Mapping[str, Any]) -> None:
        """Go on after `step`, where `state` was taken; all processes ask before one of them writes.

        What lies there may be newer than the checkpoint, as the last evaluation comes after the last step.
        """
        about = read_json(self._folder / ABOUT) if (self._folder / ABOUT).exists() else {}
        if about.get("step", step + 1) <= step and self._measure in about:
            self.value = about[self._measure]
        elif state["measure"] == self._measure:
            self.value = state["value"]
        self._ranks.wait()

    def offer(self, step: int, found: Mapping[str, Any], save: Callable[[Path], None]) -> None:
        """Keep the model if it does better than all before; the first of equals stays.

        Args:
            step: after which it was evaluated.
            found: what was measured on the held-out rows.
            save: writes the model into a folder; called in every process.
        """
        if self._measure is None or self._measure not in found:
            return
        value = float(found[self._measure])
        better = self.value is None or (value < self.value if self._measure == "loss" else value > self.value)
        if not better:
            return
        partial = self._folder.with_name(f".{self._folder.name}.partial")
        if self._ranks.index == 0:
            shutil.rmtree(partial, ignore_errors=True)
        self._ranks.wait()
        save(partial)
        if self._ranks.index == 0:
            write_json(partial / ABOUT, {"step": step, self._measure: value})
            # No moment without a best model: the old one goes when the new one is there.
            old = self._folder.with_name(f".{self._folder.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            if self._folder.exists():
                os.replace(self._folder, old)
            os.replace(partial, self._folder)
            shutil.rmtree(old, ignore_errors=True)
        self._ranks.wait()
        self.value = value
