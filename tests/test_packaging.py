from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_one_wheel_holds_the_engine_and_all_that_is_built_in(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("prefopt-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = (archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    ours = {"prefopt", "prefopt_losses", "prefopt_methods", "prefopt_tasks"}
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == ours
    suites = {path.name for path in (ROOT / "benchmarks" / "suites").glob("*.yaml")}
    assert {f"prefopt/bench/suites/{name}" for name in suites} <= set(names)
    page = {str(path.relative_to(ROOT)) for path in (ROOT / "prefopt" / "bench" / "report").rglob("*.j*")}
    assert page
    assert page <= set(names)
    templates = {str(path.relative_to(ROOT)) for path in (ROOT / "prefopt" / "scaffold").rglob("*.jinja")}
    assert len(templates) == 8
    assert templates <= set(names)
    for package in ours - {"prefopt"}:
        files = (ROOT / "plugins" / package).glob("[a-z]*.py")
        registering = {path.stem for path in files if "def prefopt_register_" in path.read_text()}
        assert registering
        assert all(f"{name} = {package}.{name}" in entry_points for name in registering)
    assert any(name.endswith("licenses/LICENSE") for name in names)
