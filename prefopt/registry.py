"""Which losses there are, who brings them, and what failed to load.

Pluggy's own entry-point loader lets a second `dpo` replace the first without a word and lets one broken plugin stop
all others, so the entry points are walked here, one by one.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import inspect
import keyword
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, get_args

import pluggy

from prefopt import hookspecs
from prefopt.batch import RowKind
from prefopt.errors import PluginError, UnknownNameError, nearest, unknown_name
from prefopt.loss import Loss, Needs

GROUP = "prefopt"


@dataclass(frozen=True)
class Plugin:
    """One plugin: an entry point of an installed distribution, or a file.

    Attributes:
        name: `distribution:entry point`, or the file's path.
        version: of the distribution; a file's is `sha256:` and the first 12 digits of its digest.
        losses: names of the losses it brings.
        error: why it failed to load, or None.
    """

    name: str
    version: str
    losses: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Registry:
    """Every loss by name. Frozen; build it once with `load_registry` and pass it on.

    Attributes:
        losses: name -> class.
        plugins: every plugin found, the broken ones included.
        contested: a name that several installed plugins bring -> those plugins. None of them gets it: it is not among
            `losses`, and asking for it is an error.
    """

    losses: Mapping[str, type[Loss]]
    plugins: tuple[Plugin, ...]
    contested: Mapping[str, tuple[str, ...]]

    @property
    def broken(self) -> tuple[Plugin, ...]:
        """The plugins that failed to load, each with its `error`."""
        return tuple(plugin for plugin in self.plugins if plugin.error is not None)

    def loss(self, name: str, **hyperparameters: Any) -> Loss:
        """The loss of that name with those hyper-parameters.

        Raises:
            UnknownNameError: no plugin registers the name.
            PluginError: several installed plugins do.
            ConfigError: a hyper-parameter is unknown, of the wrong type or out of range.
        """
        return self.loss_class(name)(**hyperparameters)

    def loss_class(self, name: str) -> type[Loss]:
        """The class of the loss of that name.

        Raises:
            UnknownNameError: no plugin registers the name.
            PluginError: several installed plugins do.
        """
        if name in self.contested:
            raise PluginError(taken_twice(name, self.contested[name]))
        if name not in self.losses:
            failed = "; ".join(f"{plugin.name} ({plugin.error})" for plugin in self.broken)
            then = f"; failed to load: {failed}" if failed else ""
            raise UnknownNameError(unknown_name("loss", name, self.losses, then=then))
        return self.losses[name]

    def plugin_of(self, loss: str) -> Plugin:
        """The plugin that brings that loss."""
        return next(plugin for plugin in self.plugins if loss in plugin.losses)


def load_registry(files: Iterable[str | Path] = ()) -> Registry:
    """Collect the losses of every installed plugin and of the given plugin files.

    Args:
        files: Python files that register losses, as after `--plugin`.

    Raises:
        PluginError: one of `files` fails to load, or brings a name that is taken. An installed plugin that fails to
            load is kept in `registry.broken`, a name that two of them bring in `registry.contested`; neither stops
            the rest.
    """
    losses: dict[str, type[Loss]] = {}
    plugins: list[Plugin] = []
    contested: set[str] = set()

    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        distribution = entry.dist.name if entry.dist else "unknown"
        version = entry.dist.version if entry.dist else ""
        name = f"{distribution}:{entry.name}"
        try:
            brought = _losses_of(name, entry.load())
        except (Exception, SystemExit) as error:  # a plugin may raise anything while it is imported
            plugins.append(Plugin(name, version, error=_reason(error)))
            continue
        # One module under two entry points brings the same classes twice, and nothing is in doubt.
        contested |= {loss for loss, cls in brought.items() if losses.setdefault(loss, cls) is not cls}
        plugins.append(Plugin(name, version, tuple(brought)))

    for path in {Path(file).resolve(): Path(file) for file in files}.values():
        if not path.is_file():
            raise PluginError(f"plugin file {str(path)!r} does not exist")
        try:
            brought = _losses_of(str(path), _import_file(path))
        except (Exception, SystemExit) as error:
            where = _line_of(path, error)
            raise PluginError(f"plugin file {str(path)!r}{where} failed to load: {_reason(error)}") from error
        for loss in brought:
            if loss in losses:
                raise PluginError(taken_twice(loss, [*_bringers(loss, plugins), str(path)]))
        losses |= brought
        plugins.append(Plugin(str(path), _digest(path), tuple(brought)))

    return Registry(
        MappingProxyType({loss: cls for loss, cls in losses.items() if loss not in contested}),
        tuple(plugins),
        MappingProxyType({loss: _bringers(loss, plugins) for loss in sorted(contested)}),
    )


def get_loss(name: str, **hyperparameters: Any) -> Loss:
    """The loss of that name from a fresh registry: `load_registry().loss(name, ...)` in one call."""
    return load_registry().loss(name, **hyperparameters)


def taken_twice(loss: str, plugins: Sequence[str]) -> str:
    """The sentence for a name that several plugins bring.

    >>> taken_twice("dpo", ["prefopt:dpo", "mine.py"])
    "two plugins bring a loss named 'dpo': prefopt:dpo and mine.py; rename or remove one"
    """
    num_plugins, which = ("two", "one") if len(plugins) == 2 else (str(len(plugins)), "all but one")
    return f"{num_plugins} plugins bring a loss named {loss!r}: {' and '.join(plugins)}; rename or remove {which}"


def is_loss_name(name: str) -> bool:
    """Whether `name` is one lowercase word of letters, digits and _, and no keyword of Python.

    >>> is_loss_name("r_dpo"), is_loss_name("r-dpo"), is_loss_name("lambda")
    (True, False, False)
    """
    return re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None and not keyword.iskeyword(name)


def _bringers(loss: str, plugins: Iterable[Plugin]) -> tuple[str, ...]:
    return tuple(plugin.name for plugin in plugins if loss in plugin.losses)


def _losses_of(name: str, module: ModuleType) -> dict[str, type[Loss]]:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(module, name=name)
    try:
        # A misspelt hook would otherwise be a plugin that does nothing.
        manager.check_pending()
    except pluggy.PluginValidationError:
        hooks = [hook for hook in vars(hookspecs) if hook.startswith("prefopt_")]
        misspelt = next(hook.name for hook in manager.get_hookcallers(module) or () if not hook.has_spec())
        near = nearest(misspelt, hooks)
        guess = f"did you mean {near!r}?" if near else f"there is: {', '.join(hooks)}"
        raise PluginError(f"unknown hook {misspelt!r}; {guess}") from None

    register = getattr(module, "prefopt_register_losses", None)
    if register is None:
        raise PluginError("it defines no prefopt_register_losses")
    if not hasattr(register, "prefopt_impl"):
        raise PluginError("prefopt_register_losses lacks the @prefopt.hookimpl mark")
    found: dict[str, type[Loss]] = {}
    for loss in register():
        if not (isinstance(loss, type) and issubclass(loss, Loss)):
            raise PluginError(f"prefopt_register_losses returned {loss!r}, which is no subclass of prefopt.Loss")
        _check_declarations(loss)
        if inspect.isabstract(loss):
            missing = " and ".join(sorted(loss.__abstractmethods__))
            raise PluginError(f"loss class {loss.__name__} does not define {missing}")
        if loss.name in found:
            raise PluginError(f"it brings two losses named {loss.name!r}")
        found[loss.name] = loss
    return found


def _check_declarations(loss: type[Loss]) -> None:
    name, needs = getattr(loss, "name", None), getattr(loss, "needs", None)
    if not isinstance(name, str):
        raise PluginError(f"loss class {loss.__name__} has no `name`")
    if not is_loss_name(name):
        raise PluginError(
            f"loss class {loss.__name__}: name {name!r} must be one lowercase word of letters, digits and _"
        )
    if not isinstance(needs, Needs):
        raise PluginError(f"loss class {loss.__name__} has no `needs`; declare what it reads with prefopt.Needs(...)")
    kinds = get_args(RowKind)
    if not needs.rows or not set(needs.rows) <= set(kinds):
        raise PluginError(
            f"loss class {loss.__name__}: needs.rows is {sorted(needs.rows)}; it must be a set of "
            f"{', '.join(kinds)}, as in {{'pairs'}}"
        )


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"prefopt_plugin_{_digest(path)[7:]}", path)
    if spec is None or spec.loader is None:
        raise PluginError("it is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic looks up annotations by module name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def _line_of(path: Path, error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    return f", line {lines[-1]}" if lines else ""


def _digest(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"
