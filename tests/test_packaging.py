from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_one_wheel_holds_the_engine_and_the_losses(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("prefopt-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = (archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"prefopt", "prefopt_losses"}
    templates = {str(path.relative_to(ROOT)) for path in (ROOT / "prefopt" / "scaffold").rglob("*.jinja")}
    assert len(templates) == 8
    assert templates <= set(names)
    built_in = {path.stem for path in (ROOT / "plugins" / "prefopt_losses").glob("[a-z]*.py")}
    assert all(f"{name} = prefopt_losses.{name}" in entry_points for name in built_in)
    assert any(name.endswith("licenses/LICENSE") for name in names)
