"""Which losses, methods and tasks there are, who brings them, and what failed to load.

Pluggy's own entry-point loader lets a second `dpo` replace the first without a word and lets one broken plugin stop
all others, so the entry points are walked here, one by one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pluggy

from prefopt import hookspecs
from prefopt.errors import PluginError, UnknownNameError, nearest, unknown_name
from prefopt.kinds import KINDS, LOSSES, METHODS, TASKS, Kind
from prefopt.loss import Loss
from prefopt.method import Method
from prefopt.task import Task

GROUP = "prefopt"


@dataclass(frozen=True)
class Plugin:
    """One plugin: an entry point of an installed distribution, or a file.

    Attributes:
        name: `distribution:entry point`, or the file's path.
        version: of the distribution; a file's is `sha256:` and the first 12 digits of its digest.
        losses, methods, tasks: names of those it brings.
        error: why it failed to load, or None.
    """

    name: str
    version: str
    losses: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    error: str | None = None

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Names of those of one kind that it brings."""
        names: tuple[str, ...] = getattr(self, kind.many)
        return names


@dataclass(frozen=True)
class Registry:
    """Every loss, method and task by name. Frozen; build it once with `load_registry` and pass it on.

    Attributes:
        losses: name -> class.
        plugins: every plugin found, the broken ones included.
        contested: a name of a loss or method that several installed plugins bring -> those plugins. None of them gets
            it: it is neither among `losses` nor among `methods`, and asking for it is an error.
        methods: name -> class of the benchmark methods that are no losses. Losses and methods share their names.
        tasks: name -> class of the benchmark tasks, whose names are their own.
        contested_tasks: the same as `contested` for tasks.
    """

    losses: Mapping[str, type[Loss]]
    plugins: tuple[Plugin, ...]
    contested: Mapping[str, tuple[str, ...]]
    methods: Mapping[str, type[Method]] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    tasks: Mapping[str, type[Task]] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    contested_tasks: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=lambda: MappingProxyType({}))

    @property
    def broken(self) -> tuple[Plugin, ...]:
        """The plugins that failed to load, each with its `error`."""
        return tuple(plugin for plugin in self.plugins if plugin.error is not None)

    @property
    def left_out(self) -> tuple[str, ...]:
        """One sentence for each contested name: who brings it, and what to do about it."""
        contested = {LOSSES.namespace: self.contested, TASKS.namespace: self.contested_tasks}
        return tuple(_taken(namespace, name, self.plugins) for namespace, names in contested.items() for name in names)

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
        self._check_name(LOSSES, name, self.losses, self.contested)
        return self.losses[name]

    def method_class(self, name: str) -> type[Loss] | type[Method]:
        """The class of the method of that name; every loss is a method, and its class is that of the loss.

        Raises:
            UnknownNameError: no plugin registers the name.
            PluginError: several installed plugins do.
        """
        methods: dict[str, type[Loss] | type[Method]] = {**self.losses, **self.methods}
        self._check_name(METHODS, name, methods, self.contested)
        return methods[name]

    def task(self, name: str) -> Task:
        """The task of that name.

        Raises:
            UnknownNameError: no plugin registers the name.
            PluginError: several installed plugins do.
        """
        self._check_name(TASKS, name, self.tasks, self.contested_tasks)
        return self.tasks[name]()

    def plugin_of(self, loss: str) -> Plugin:
        """The plugin that brings that loss."""
        return next(plugin for plugin in self.plugins if loss in plugin.losses)

    def _check_name(self, kind: Kind, name: str, known: Iterable[str], contested: Iterable[str]) -> None:
        if name in contested:
            raise PluginError(_taken(kind.namespace, name, self.plugins))
        if name not in known:
            failed = "; ".join(f"{plugin.name} ({plugin.error})" for plugin in self.broken)
            then = f"; failed to load: {failed}" if failed else ""
            raise UnknownNameError(unknown_name(kind.one, name, known, then=then))


# What plugins bring: (namespace, name) -> kind and class.
_Brought = dict[tuple[str, str], tuple[Kind, type[Any]]]


def load_registry(files: Iterable[str | Path] = ()) -> Registry:
    """Collect what every installed plugin and the given plugin files bring.

    Args:
        files: Python files that register losses, methods or tasks, as after `--plugin`.

    Raises:
        PluginError: one of `files` fails to load, or brings a name that is taken. An installed plugin that fails to
            load is kept in `registry.broken`, a name that two of them bring in `registry.contested`; neither stops
            the rest.
    """
    found: _Brought = {}
    plugins: list[Plugin] = []
    contested: set[tuple[str, str]] = set()

    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        distribution = entry.dist.name if entry.dist else "unknown"
        version = entry.dist.version if entry.dist else ""
        name = f"{distribution}:{entry.name}"
        try:
            brought = _brought_by(name, entry.load())
        except (Exception, SystemExit) as error:  # a plugin may raise anything while it is imported
            plugins.append(Plugin(name, version, error=_reason(error)))
            continue
        # One module under two entry points brings the same classes twice, and nothing is in doubt.
        contested |= {key for key, one in brought.items() if found.setdefault(key, one) != one}
        plugins.append(_plugin(name, version, brought))

    for path in {Path(file).resolve(): Path(file) for file in files}.values():
        if not path.is_file():
            raise PluginError(f"plugin file {str(path)!r} does not exist")
        try:
            brought = _brought_by(str(path), _import_file(path))
        except (Exception, SystemExit) as error:
            where = _line_of(path, error)
            raise PluginError(f"plugin file {str(path)!r}{where} failed to load: {_reason(error)}") from error
        plugins.append(_plugin(str(path), _digest(path), brought))
        for key in brought:
            if key in found:
                raise PluginError(_taken(*key, plugins))
        found |= brought

    def classes(wanted: Kind) -> Mapping[str, type[Any]]:
        items = found.items()
        return MappingProxyType({key[1]: cls for key, (kind, cls) in items if kind is wanted and key not in contested})

    def clashes(namespace: str) -> Mapping[str, tuple[str, ...]]:
        names = sorted(name for space, name in contested if space == namespace)
        return MappingProxyType({name: _bringers(namespace, name, plugins) for name in names})

    return Registry(
        losses=classes(LOSSES),
        plugins=tuple(plugins),
        contested=clashes(LOSSES.namespace),
        methods=classes(METHODS),
        tasks=classes(TASKS),
        contested_tasks=clashes(TASKS.namespace),
    )


def get_loss(name: str, **hyperparameters: Any) -> Loss:
    """The loss of that name from a fresh registry: `load_registry().loss(name, ...)` in one call."""
    return load_registry().loss(name, **hyperparameters)


def _bringers(namespace: str, name: str, plugins: Iterable[Plugin]) -> tuple[str, ...]:
    kinds = [kind for kind in KINDS if kind.namespace == namespace]
    return tuple(plugin.name for plugin in plugins if any(name in plugin.names(kind) for kind in kinds))


def _taken(namespace: str, name: str, plugins: Sequence[Plugin]) -> str:
    """The sentence for a name that several plugins bring."""
    kinds = [kind for kind in KINDS if kind.namespace == namespace and any(name in one.names(kind) for one in plugins)]
    bringers = _bringers(namespace, name, plugins)
    num_plugins, which = ("two", "one") if len(bringers) == 2 else (str(len(bringers)), "all but one")
    what = " or ".join(kind.one for kind in kinds)
    return f"{num_plugins} plugins bring a {what} named {name!r}: {' and '.join(bringers)}; rename or remove {which}"


def _plugin(name: str, version: str, brought: _Brought) -> Plugin:
    def names(wanted: Kind) -> tuple[str, ...]:
        return tuple(cls.name for kind, cls in brought.values() if kind is wanted)

    return Plugin(name, version, losses=names(LOSSES), methods=names(METHODS), tasks=names(TASKS))


def _brought_by(name: str, module: ModuleType) -> _Brought:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(module, name=name)
    hooks = [kind.hook for kind in KINDS]
    try:
        # A misspelt hook would otherwise be a plugin that does nothing.
        manager.check_pending()
    except pluggy.PluginValidationError:
        misspelt = next(hook.name for hook in manager.get_hookcallers(module) or () if not hook.has_spec())
        near = nearest(misspelt, hooks)
        guess = f"did you mean {near!r}?" if near else f"there are: {', '.join(hooks)}"
        raise PluginError(f"unknown hook {misspelt!r}; {guess}") from None

    registers = {kind: getattr(module, kind.hook) for kind in KINDS if hasattr(module, kind.hook)}
    if not registers:
        raise PluginError(f"it defines none of {', '.join(hooks)}")
    found: _Brought = {}
    for kind, register in registers.items():
        if not hasattr(register, "prefopt_impl"):
            raise PluginError(f"{kind.hook} lacks the @prefopt.hookimpl mark")
        for cls in register():
            kind.check(cls)
            key = kind.namespace, cls.name
            if key in found:
                other = found[key][0]
                what = f"two {kind.many}" if kind is other else f"a {other.one} and a {kind.one}"
                raise PluginError(f"it brings {what} named {cls.name!r}")
            found[key] = kind, cls
    return found


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
