"""The section `tracking`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from prefopt.section import Section


class TrackingConfig(Section):
    """Where the numbers of every step go besides metrics.jsonl, through accelerate's trackers."""

    trackers: Annotated[tuple[Literal["tensorboard", "wandb", "trackio", "mlflow"], ...], Field(min_length=1)]
    """Their names; each needs its own package."""
    project: str = Field("prefopt", min_length=1)
    """What the trackers file the run under."""
    name: str | None = Field(None, min_length=1)
    """What they call it; null: the name of output_dir."""
