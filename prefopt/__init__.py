"""Preference-optimisation losses as verified plugins, and one engine that runs any of them exactly."""

from prefopt.batch import Completions, PreferenceBatch, Tokens
from prefopt.draws import Draws
from prefopt.errors import (
    ConfigError,
    DataError,
    ModelError,
    NonFiniteLossError,
    PluginError,
    PrefoptError,
    StoreError,
    UnknownNameError,
)
from prefopt.hookspecs import hookimpl
from prefopt.logspace import difference_of_powers
from prefopt.loss import (
    Gradient,
    LabelLoss,
    Loss,
    LossOutput,
    Needs,
    PairLoss,
    RankingLoss,
    Relation,
    field,
)
from prefopt.method import Budget, Method, Trial
from prefopt.registry import Plugin, Registry, get_loss, load_registry
from prefopt.task import Knob, Task
from prefopt.transport import Coupling, quantile_coupling

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Completions",
    "ConfigError",
    "Coupling",
    "DataError",
    "Draws",
    "Gradient",
    "Knob",
    "LabelLoss",
    "Loss",
    "LossOutput",
    "Method",
    "ModelError",
    "Needs",
    "NonFiniteLossError",
    "PairLoss",
    "Plugin",
    "PluginError",
    "PreferenceBatch",
    "PrefoptError",
    "RankingLoss",
    "Registry",
    "Relation",
    "StoreError",
    "Task",
    "Tokens",
    "Trial",
    "UnknownNameError",
    "difference_of_powers",
    "field",
    "get_loss",
    "hookimpl",
    "load_registry",
    "quantile_coupling",
]
