from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.grounds import lay_out


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every case reads and none writes."""
    folder = tmp_path_factory.mktemp("fuzz") / "ground"
    folder.mkdir()
    lay_out(folder)
    return folder
