"""The packages that `prefopt new loss` writes, treated as anyone's: installed with pip, tested by their own tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import prefopt
from prefopt.scaffold.package import distribution_name, write_loss_package
from prefopt.testing.documentation import docstring_faults
from tests.test_structure import loss_file_import_faults

KINDS = ("pairs", "labels", "rankings")


def run(*arguments, cwd, **environment):
    environment = {**os.environ, **environment}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


def installed(package, site):
    """pip installs the package from its folder, offline; then its tests are run in that folder."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    done = run("-m", "pip", "install", *options, "--target", str(site), ".", cwd=package)
    assert done.returncode == 0, done.stderr
    return run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=package, PYTHONPATH=str(site))


@pytest.mark.parametrize("rows", KINDS)
def test_a_package_passes_its_own_tests_once_installed(tmp_path, rows):
    package = write_loss_package("mine", rows, tmp_path, [])[0].parent
    done = installed(package, tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in (tmp_path / "site").glob("*.py")] == ["prefopt_mine.py"]
    program = (
        "import prefopt; print(prefopt.load_registry().plugin_of('mine').name, prefopt.get_loss('mine').needs.rows)"
    )
    told = run("-c", program, cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert told.stdout == f"prefopt-mine:mine frozenset({{'{rows}'}})\n", told.stderr


def test_the_tests_of_a_package_find_a_gradient_of_the_wrong_sign(tmp_path):
    file, *_ = write_loss_package("mine", "pairs", tmp_path, [])
    text = file.read_text()
    assert "policy_chosen=-weight" in text
    file.write_text(text.replace("policy_chosen=-weight", "policy_chosen=weight"))
    done = installed(file.parent, tmp_path / "site")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "::test_promise[" in done.stdout


@pytest.mark.parametrize("rows", KINDS)
def test_a_loss_file_keeps_the_rules_of_the_house(tmp_path, rows):
    file, *_ = write_loss_package("mine", rows, tmp_path, [])
    loss = prefopt.load_registry(files=[file]).losses["mine"]
    assert not docstring_faults(loss)
    assert not loss_file_import_faults("mine", file.read_text())
    assert "https://example.org" in loss.__doc__
    assert loss.needs.rows == {rows}
    assert loss.gradient is not prefopt.Loss.gradient


@pytest.mark.parametrize("rows", KINDS)
def test_what_is_written_needs_no_formatting(tmp_path, rows):
    files = write_loss_package("mine", rows, tmp_path, [])
    options = ["--isolated", "--line-length", "120"]
    for command in (["format", "--check"], ["check", "--select", "B,E,F,I,RUF,UP"]):
        done = run("-m", "ruff", *command, *options, *map(str, files[:2]), cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "folder"), [("wide_margin", "prefopt-wide-margin"), ("a__b_", "prefopt-a-b"), ("kl2", "prefopt-kl2")]
)
def test_the_folder_is_a_valid_name_of_a_distribution(tmp_path, name, folder):
    assert distribution_name(name) == folder
    written = write_loss_package(name, "pairs", tmp_path, [])
    assert {path.parent for path in written} == {tmp_path / folder}
    assert f'name = "{folder}"' in (tmp_path / folder / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", ["tensor", "pair", "loss", "field", "torch_loss"])
def test_no_name_clashes_with_what_the_file_imports(tmp_path, name):
    file, *_ = write_loss_package(name, "pairs", tmp_path, [])
    assert prefopt.load_registry(files=[file]).loss(name, beta=0.5).beta == 0.5


def test_nothing_is_left_of_a_template(tmp_path):
    for rows in KINDS:
        for path in write_loss_package(f"of_{rows}", rows, tmp_path, []):
            assert not {"{{", "}}", "{%"} & set(path.read_text().split()), path


def test_the_extra_that_a_package_asks_for_is_there():
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    assert "\ntesting = [" in text
