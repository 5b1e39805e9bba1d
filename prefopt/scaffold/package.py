"""A package with one loss, complete and tested, for its author to change."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection
from pathlib import Path
from typing import Literal, get_args

import jinja2

from prefopt.errors import ConfigError, PluginError
from prefopt.kinds import is_name

Kind = Literal["pairs", "labels", "rankings"]

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
    autoescape=False,  # what is written is Python, TOML and Markdown
)


def distribution_name(name: str) -> str:
    """The package's name on an index, and its folder.

    >>> distribution_name("wide_margin")
    'prefopt-wide-margin'
    """
    return "prefopt-" + re.sub("_+", "-", name).strip("-")


def write_loss_package(name: str, rows: str, into: Path, taken: Collection[str]) -> list[Path]:
    """Write a package whose one loss reads rows of that kind; nothing that exists is touched.

    Args:
        name: of the loss.
        rows: "pairs", "labels" or "rankings".
        into: the folder that the package's folder is made in.
        taken: the names of losses that are registered already.

    Returns:
        the files, in the order to read them.

    Raises:
        ConfigError: there is no package for such rows, or its folder exists or cannot be written.
        PluginError: the name is no name for a loss, or is taken.
    """
    kinds = get_args(Kind)
    if rows not in kinds:
        raise ConfigError(f"--rows is {rows!r}; it must be one of {', '.join(kinds)}")
    if not is_name(name):
        raise PluginError(
            f"a loss cannot be named {name!r}; it must be one lowercase word of letters, digits and _, and no keyword "
            "of Python"
        )
    module = f"prefopt_{name}"
    if name in taken:
        raise PluginError(f"there is a loss or method named {name!r} already; `prefopt plugins` says who brings it")
    if importlib.util.find_spec(module) is not None:
        raise PluginError(f"a module named {module!r} is installed already; choose another name than {name!r}")

    folder = into / distribution_name(name)
    words = {"name": name, "module": module, "distribution": distribution_name(name), "rows": rows, "cls": _class(name)}
    templates = {
        f"{module}.py": f"{rows}/loss.py.jinja",
        f"test_{module}.py": f"{rows}/test.py.jinja",
        "pyproject.toml": "pyproject.toml.jinja",
        "README.md": "README.md.jinja",
    }
    texts = {file: _TEMPLATES.get_template(template).render(words) for file, template in templates.items()}
    try:
        folder.mkdir(parents=True)
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8", newline="\n")
    except FileExistsError:
        raise ConfigError(f"{str(folder)!r} exists already; remove it or choose another name or --into") from None
    except OSError as error:
        raise ConfigError(f"cannot write {str(folder)!r}: {error.strerror}") from None
    return [folder / file for file in texts]


def _class(name: str) -> str:
    words = "".join(word.capitalize() for word in name.split("_"))
    return words if words.endswith("Loss") else f"{words}Loss"
