"""The errors users meet. Each message is one sentence: what, where, why, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class PrefoptError(Exception):
    """Any failure whose message is written for the user; the command line prints it without a traceback."""


class ConfigError(PrefoptError, ValueError):
    """A setting is unknown, out of range, missing, or does not go with another one."""


class DataError(PrefoptError, ValueError):
    """A source of rows cannot be read, or a row cannot be used."""


class ModelError(PrefoptError, ValueError):
    """A model or tokenizer cannot be loaded, or cannot do what the run needs."""


class StoreError(PrefoptError):
    """The store of reference log-probs cannot be read or written, or does not hold what it should."""


class OutputError(PrefoptError):
    """What a run has to write cannot be written, or what it has written cannot be read back."""


class PluginError(PrefoptError):
    """A plugin breaks a rule of the registry: it fails to load, or brings a name that is taken."""


class UnknownNameError(PrefoptError, LookupError):
    """A name that no plugin registers."""


class OutOfMemoryError(PrefoptError):
    """The device or the machine has no memory left for a step."""


class NonFiniteLossError(PrefoptError, ArithmeticError):
    """A loss or a gradient is NaN or infinite; the message names the rows that caused it."""


class DivergenceError(PrefoptError, ArithmeticError):
    """A run has diverged and was told to stop then; the message gives the numbers that led to it."""


def unknown_name(what: str, name: str, known: Iterable[str], *, then: str = "") -> str:
    """The sentence for a name that is not among `known`.

    >>> unknown_name("loss", "dpoo", ["ipo", "dpo"])
    "unknown loss 'dpoo'; did you mean 'dpo'? available: dpo, ipo"
    """
    names = sorted(known)
    near = nearest(name, names)
    guess = f"did you mean {near!r}? " if near else ""
    return f"unknown {what} {name!r}; {guess}available: {', '.join(names) or 'none'}{then}"


def in_one_line(message: str) -> str:
    r"""The message with line breaks, and all else that a terminal acts on or cannot show, written as escapes.

    >>> in_one_line("unknown key 'a\nb'")
    "unknown key 'a\\nb'"
    """
    return "".join(own if own.isprintable() else own.encode("unicode_escape").decode("ascii") for own in message)


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name most like `name`, or None when nothing is close.

    >>> nearest("lerning_rate", ["learning_rate", "epochs"])
    'learning_rate'
    """
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return matches[0] if matches else None
