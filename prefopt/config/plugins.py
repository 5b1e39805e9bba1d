"""The section `plugins`."""

from __future__ import annotations

from prefopt.config.place import Place
from prefopt.section import Section


class PluginConfig(Section):
    """A Python file that registers losses."""

    path: Place
    """The file."""
    sha256: str | None = None
    """Digest of the file; the resolved config records it, and a file with another one is refused."""
