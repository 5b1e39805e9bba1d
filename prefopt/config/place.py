"""A place on disk or on the Hub."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError


def _path(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("no_place", "must not hold a NUL, which no path can")
    return os.path.expanduser(text)


Place = Annotated[str, Field(min_length=1), AfterValidator(_path)]
"""Not empty; `~` stands for the home folder."""
