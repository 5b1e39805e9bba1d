"""The one way a row is refused inside the data room; `load_rows` adds source and number, or counts it."""

from __future__ import annotations


class BadRow(ValueError):
    """A row that cannot be used; the message is the reason, without the row's name."""
