"""The plugin to read, treated as anyone's: installed with pip, found by name, tested by its own tests."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import prefopt

EXAMPLE = Path(__file__).parents[2] / "plugins" / "example"


def run(*arguments, cwd, **environment):
    environment = {**os.environ, **environment}
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that pip installed the plugin into. Built from a copy, so that nothing is left beside the source."""
    folder = tmp_path_factory.mktemp("example")
    copy = shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    run("-m", "pip", "install", *options, "--target", str(folder / "site"), str(copy), cwd=folder)
    return folder / "site"


def test_installed_plugin_brings_its_loss(installed, tmp_path):
    program = (
        "import prefopt; registry = prefopt.load_registry(); assert not registry.broken;"
        "print(prefopt.get_loss('hinge_example', beta=0.5), registry.plugin_of('hinge_example').name,"
        "registry.plugin_of('hinge_example').version)"
    )
    printed = run("-W", "error", "-c", program, cwd=tmp_path, PYTHONPATH=str(installed))
    assert printed == "beta=0.5 prefopt-example:hinge_example 0.1.0\n"


def test_installed_wheel_holds_the_module_alone(installed):
    assert [path.name for path in installed.iterdir() if path.suffix == ".py"] == ["prefopt_example.py"]


def test_plugin_passes_its_own_tests(installed, tmp_path):
    tests = shutil.copy(EXAMPLE / "test_prefopt_example.py", tmp_path)
    printed = run("-m", "pytest", "-v", "-p", "no:cacheprovider", str(tests), cwd=tmp_path, PYTHONPATH=str(installed))
    passed = re.findall(r"::(test_\w+)(?:\[hinge_example-(\w+)\])? PASSED", printed)
    assert {"closed_form", "extremes", "docstring"} < {check for name, check in passed if name == "test_promise"}
    assert len([name for name, check in passed if not check]) == 4


def test_uninstalled_plugin_is_unknown():
    with pytest.raises(prefopt.UnknownNameError, match="unknown loss 'hinge_example'"):
        prefopt.get_loss("hinge_example")


def test_plugin_file_works_without_installing():
    registry = prefopt.load_registry(files=[EXAMPLE / "prefopt_example.py"])
    assert registry.loss("hinge_example", beta=0.5).beta == 0.5
