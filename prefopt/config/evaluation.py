"""The section `evaluation`."""

from __future__ import annotations

from pydantic import Field

from prefopt.section import Section


class EvaluationConfig(Section):
    """What is measured on the held-out rows, before and after training."""

    every_steps: int | None = Field(None, ge=1)
    """Also evaluate after every so many steps."""
    samples: int = Field(0, ge=0)
    """Held-out prompts to complete greedily before and after training; the texts go into run.json."""
    max_new_tokens: int = Field(64, ge=1)
    """Length limit of those completions."""
