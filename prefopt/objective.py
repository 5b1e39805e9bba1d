"""From the names in a config to the loss that is trained with."""

from __future__ import annotations

from prefopt.config import LossConfig, RunConfig
from prefopt.loss import Loss
from prefopt.registry import Registry
from prefopt.weighted import Objective, WeightedSum


def build_loss(config: RunConfig, registry: Registry) -> Objective:
    """The loss the config names, or the weighted sum of its parts.

    Raises:
        UnknownNameError: no plugin registers a name.
        ConfigError: a hyper-parameter is not valid, or the parts do not go together.
    """
    if len(config.loss) == 1 and config.loss[0].weight == 1:
        return _build(config.loss[0], registry)
    return WeightedSum(tuple((part.weight, _build(part, registry)) for part in config.loss))


def provenance(config: RunConfig, registry: Registry) -> dict[str, str]:
    """Plugin -> version (a file's digest) of every loss the config names."""
    plugins = [registry.plugin_of(part.name) for part in config.loss]
    return {plugin.name: plugin.version for plugin in plugins}


def _build(part: LossConfig, registry: Registry) -> Loss:
    return registry.loss(part.name, **part.hyperparameters)
