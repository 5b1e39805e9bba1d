"""YAML that people write, read safely."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from prefopt.errors import ConfigError, nearest


class _Loader(yaml.SafeLoader):
    """Safe YAML, with 1e-6 read as the number it is.

    A key given twice, half a character, and whole numbers that no counter holds are refused.
    """

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        text = super().construct_scalar(node)
        if not text.isascii() and re.search("[\ud800-\udfff]", text):
            raise yaml.constructor.ConstructorError(
                None, None, f"{text!r} is not valid Unicode: half of a surrogate pair", node.start_mark
            )
        return text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        seen: list[Any] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.append(key)
        return super().construct_mapping(node, deep)

    def construct_counted(self, node: yaml.ScalarNode) -> int:
        number = int(self.construct_yaml_int(node))
        if abs(number) >= 2**63:
            raise yaml.constructor.ConstructorError(
                None, None, f"a whole number of {len(str(abs(number)))} digits; none goes beyond 2**63", node.start_mark
            )
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_counted)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: there is no such file, it is not UTF-8 or not YAML, or it holds no mapping.
    """
    if not path.is_file():
        near = nearest(path.name, [file.name for file in path.parent.glob("*.y*ml")])
        guess = f"; did you mean {str(path.with_name(near))!r}?" if near else ""
        raise ConfigError(f"config file {str(path)!r} does not exist{guess}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys to values, not {type(values).__name__}")
    return values


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text, by safe load.

    Raises:
        ConfigError: it is not YAML, or gives a key twice; `where` begins the message.
    """
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except Exception as error:  # beside its own, PyYAML lets out what int, float, date and recursion raise
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(f"{where}{line}: not valid YAML: {reason}") from None
