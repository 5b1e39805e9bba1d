"""The section `data`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from prefopt.config.place import Place
from prefopt.section import Section


class DataConfig(Section):
    """Which rows, and what is done with those that do not fit."""

    train: Place
    """A .jsonl, .json or .parquet file, a folder, or a Hub id; `[a:b]` after it takes those rows."""
    evaluation: Place | Annotated[int, Field(ge=1)] | None = None
    """Held-out rows, named in the same way; or a number of rows of `train` to set aside, the same in every run."""
    max_length: int = Field(1024, ge=2)
    """Tokens of prompt and longest completion together; what exceeds it is truncated and reported."""
    on_bad_row: Literal["error", "skip"] = "error"
    """Stop at a row that cannot be used, or leave it out, count it and list it."""
