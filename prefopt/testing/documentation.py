"""Checks of what a reader relies on: the name, the docs page, the docstring and its example."""

from __future__ import annotations

import doctest
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import prefopt.docstrings
from prefopt.registry import Plugin, Registry
from prefopt.testing.check import Broken, NotApplicable, Subject, on_loss

SECTIONS = tuple(section for section in prefopt.docstrings.SECTIONS if section != "Example")
_OWN = "prefopt"  # the distribution whose losses have a page


@on_loss()
def name(subject: Subject) -> None:
    """The loss and its entry point have one name, and so has the module of each of prefopt's own."""
    loss = subject.loss
    plugin = _plugin(subject.registry, loss.name)
    if plugin is None or ":" not in plugin.name or Path(plugin.name).exists():
        raise NotApplicable("it does not come from an installed plugin")
    distribution, _, entry = plugin.name.partition(":")
    if entry != loss.name and (distribution == _OWN or len(plugin.losses) == 1):
        raise Broken(f"the loss is called {loss.name!r}, its entry point {entry!r}")
    package, _, module = loss.__module__.rpartition(".")
    if distribution == _OWN and package and module != loss.name:
        raise Broken(f"the loss is called {loss.name!r}, its module {loss.__module__!r}")


@on_loss()
def docs_page(subject: Subject) -> None:
    """A built-in loss has a page in docs/losses."""
    plugin = _plugin(subject.registry, subject.loss.name)
    if plugin is None or plugin.name.partition(":")[0] != _OWN:
        raise NotApplicable("it is not one of prefopt's own")
    docs = Path(inspect.getfile(prefopt.docstrings)).parents[1] / "docs"
    if not docs.is_dir():
        raise NotApplicable("prefopt is installed without its docs")
    page = docs / "losses" / f"{subject.loss.name}.md"
    if not page.is_file():
        raise Broken(f"there is no docs/losses/{page.name}")


@on_loss()
def docstring(subject: Subject) -> None:
    """The docstring has its sections in order, names every field and says where the loss comes from."""
    faults = docstring_faults(subject.loss)
    if faults:
        raise Broken("; ".join(faults))


@on_loss()
def example(subject: Subject) -> None:
    """The docstring's example prints what it claims."""
    faults = doctest_faults(subject.loss)
    if faults:
        raise Broken(" ".join("; ".join(faults).split()))


def docstring_faults(loss: Any) -> list[str]:
    """What is wrong with the docstring: result, formula, Args, Returns, Raises, Source, Differs, doctest."""
    text = inspect.cleandoc(loss.__doc__ or "")
    name, faults = loss.__name__, []
    first, _, _ = text.partition("\n")
    if not first.strip().endswith("."):
        faults.append(f"{name}: the first line is no sentence about the result")
    matches = {section: re.search(rf"^{section}:$", text, re.MULTILINE) for section in SECTIONS}
    faults += [f"{name}: no section {section}:" for section, match in matches.items() if match is None]
    heading = re.search(r"^Example:\n", text, re.MULTILINE)
    doctest_at = text.find(">>> ", heading.end() if heading else 0)
    if doctest_at < 0:
        faults.append(f"{name}: no doctest")
    if faults:
        return faults
    starts = [match.start() for match in matches.values() if match]
    if [*starts, doctest_at] != sorted([*starts, doctest_at]):
        return [f"{name}: the sections are out of order"]
    ends = [*starts[1:], heading.start() if heading else doctest_at]
    bodies = {section: text[start:end] for section, start, end in zip(SECTIONS, starts, ends, strict=True)}
    if "=" not in text[len(first) : starts[0]]:
        faults.append(f"{name}: no formula before Args:")
    faults += [
        f"{name}: Args: does not name {field}"
        for field in loss.model_fields
        if not re.search(rf"^ +{field}: \S", bodies["Args"], re.MULTILINE)
    ]
    if not re.search(r"\barXiv \d{4}\.\d{4,5}\b|https://\S+", bodies["Source"]):
        faults.append(f"{name}: Source: has neither an arXiv id nor an https address")
    faults += [
        f"{name}: {section}: is empty" for section, body in bodies.items() if not body.partition("\n")[2].strip()
    ]
    return faults


def doctest_faults(loss: Any) -> list[str]:
    """What the examples in a loss's docstring print against what they claim; they see the names of its module."""
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.REPORT_ONLY_FIRST_FAILURE)
    names = dict(vars(sys.modules[loss.__module__]))
    for test in doctest.DocTestFinder(recurse=False).find(loss, loss.__name__, globs=names):
        runner.run(test, out=report.append)
    if not runner.summarize(verbose=False).attempted:
        report.append(f"{loss.__name__}: no example ran")
    return report


def _plugin(registry: Registry, loss: str) -> Plugin | None:
    return next((plugin for plugin in registry.plugins if loss in plugin.losses), None)
