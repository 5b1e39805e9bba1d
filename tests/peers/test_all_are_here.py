"""The 26 tests that others' bugs ask for: each is here, under its number, and none is put off."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
PUT_OFF = ("skip", "xfail", "slow")


def numbered():
    """(number, name, its decorators) of every numbered test, and (0, file, what marks a whole file)."""
    for path in sorted(HERE.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and (match := re.fullmatch(r"test_(\d\d)_\w+", node.name)):
                yield int(match[1]), node.name, [ast.unparse(each) for each in node.decorator_list]
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
                yield 0, path.name, [ast.unparse(node.value)]


def test_all_26_are_here():
    assert {number for number, _, _ in numbered()} - {0} == set(range(1, 27))


def test_none_of_them_is_put_off():
    for _, name, decorators in numbered():
        assert not [each for each in decorators if any(word in each for word in PUT_OFF)], name


def test_each_asserts_something():
    """In its own body, or in a function of its file that it calls: none is a stub that refers to another test."""
    for path in sorted(HERE.glob("test_*.py")):
        functions = {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        checking = {name for name, node in functions.items() if _checks(node, set())}
        for name, node in functions.items():
            if name.startswith("test_"):
                assert _checks(node, checking), name


def _checks(node, checking):
    found = [ast.unparse(each.func) for each in ast.walk(node) if isinstance(each, ast.Call)]
    asserts = any(isinstance(each, ast.Assert) for each in ast.walk(node))
    return asserts or any("assert" in call or "raises" in call or call in checking for call in found)
