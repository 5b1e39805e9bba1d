"""The section `checkpoints`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from prefopt.section import Section


class CheckpointsConfig(Section):
    """When the whole state of a run is kept, so that `prefopt train CONFIG --resume` goes on from there.

    Whatever stands here, a run that is told to stop (Ctrl-C, SIGTERM) keeps one.
    """

    every_steps: int | None = Field(None, ge=1)
    """After every so many steps."""
    every_minutes: float | None = Field(None, gt=0, allow_inf_nan=False)
    """After the first step that ends so many minutes after the last one was kept."""
    keep_last: int | None = Field(2, ge=1)
    """Older ones are deleted; null: none is."""
    keep_best: Literal["loss", "reward_accuracy", "reward_margin"] | None = None
    """The model that was best so far on the held-out rows by this measure goes into output_dir/best."""
