"""Who is told what happens during a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Watcher:
    """Is told what happens during a run, and keeps silent; the command line has one that draws."""

    def say(self, line: str) -> None:
        """A fact worth a line."""

    def begin(self, what: str, total: int | None) -> None:
        """A long stretch starts.

        Args:
            what: "train", counted in steps; "score", counted in rows; "sample" and "judge", counted in prompts.
            total: how many there will be, where that is known.
        """

    def step(self, metrics: Mapping[str, Any]) -> None:
        """A training step is done."""

    def scored(self, num_rows: int, num_new: int) -> None:
        """So many more rows have their reference log-probs, of which so many had to be scored."""

    def evaluated(self, when: str, found: Mapping[str, Any]) -> None:
        """Held-out rows were evaluated; `found` is what run.json keeps of it."""

    def end(self) -> None:
        """The stretch is over."""
