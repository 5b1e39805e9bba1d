"""A page as one HTML file that needs nothing else: it loads no file, no font and nothing from a network."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import plotly.offline
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prefopt.errors import ConfigError


def render(package: str, *, styles: Sequence[str], scripts: Sequence[str], **values: Any) -> str:
    """The HTML of `page.html.jinja`, with everything it needs inside.

    Args:
        package: whose `templates` hold the page's files; what is not there is one of this room's.
        styles: names of its style sheets, in their order.
        scripts: names of its scripts, in their order; plotly comes before them.
        values: what the template reads, besides `style`, `scripts` and the content security `policy`.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("prefopt.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    inlined = [plotly.offline.get_plotlyjs(), _joined(environment, scripts)]
    return environment.get_template("page.html.jinja").render(
        **values,
        style=Markup(_joined(environment, styles)),
        scripts=[Markup(script) for script in inlined],
        policy=_policy(inlined),
    )


def write(text: str, path: Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        ConfigError: the file cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, path)
    except OSError as error:
        raise ConfigError(f"cannot write the report to {str(path)!r}: {error.strerror or error}") from None


def _joined(environment: Environment, names: Iterable[str]) -> str:
    assert environment.loader is not None
    return "\n".join(environment.loader.get_source(environment, name)[0] for name in names)


def _policy(scripts: Iterable[str]) -> str:
    """The page's content security policy: these scripts by their digests and no other, and no request at all."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
