"""A place on disk or on the Hub."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import AfterValidator, Field

Place = Annotated[str, Field(min_length=1), AfterValidator(os.path.expanduser)]
"""Not empty; `~` stands for the home folder."""
