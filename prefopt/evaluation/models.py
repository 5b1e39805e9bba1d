"""The two models of an evaluation: the trained one, and the reference of its run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from prefopt.config import ModelConfig, RunConfig
from prefopt.data.row import Row
from prefopt.engine.logps import LogpSource
from prefopt.errors import ConfigError
from prefopt.reference.cached import CachedReference
from prefopt.reference.loading import ReferenceModel
from prefopt.watcher import Watcher
from prefopt.weighted import Objective


def trained_model(config: RunConfig, name: str | None) -> ModelConfig:
    """The model to evaluate; how it is held in memory is the config's.

    Args:
        config: the run's settings.
        name: a folder or a Hub id; None: the model in `output_dir`.

    Raises:
        ConfigError: there is none yet.
    """
    if name is not None and name == config.model.name:
        return _without_new_adapter(config.model)
    if name is None:
        folder = Path(config.output_dir)
        if not any((folder / file).is_file() for file in ("config.json", "adapter_config.json")):
            raise ConfigError(
                f"output_dir {str(folder)!r} holds no trained model; train it with `prefopt train`, or name another "
                "one with --model"
            )
    update = {"name": name or config.output_dir, "revision": None, "gguf_file": None, "adapter": None}
    return config.model.model_copy(update=update)


def reference_model(config: RunConfig) -> ModelConfig:
    """The run's reference: its initial policy, unless the config names another model.

    Raises:
        ConfigError: it began with an adapter that is not kept.
    """
    if config.reference.model is not None:
        return _without_new_adapter(config.reference.model)
    return _without_new_adapter(config.model)


def _without_new_adapter(model: ModelConfig) -> ModelConfig:
    """A new adapter begins as its base, and so the base stands for both."""
    if model.adapter is None or model.adapter.path is not None:
        return model
    if not model.adapter.begins_as_base:
        raise ConfigError(
            f"model.adapter.{model.adapter.beyond_base[0]} may make an adapter begin otherwise than its base, and what "
            "it began as is not kept; name the reference in reference.model"
        )
    return model.model_copy(update={"adapter": None})


class Models:
    """The policy and the reference, each loaded when it is first asked for.

    Attributes:
        tokenizer: the run's.
        policy, reference: give the model as it may be used on given rows.
    """

    def __init__(
        self,
        config: RunConfig,
        loss: Objective,
        trained: ModelConfig,
        initial: ModelConfig,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[Row],
        watcher: Watcher,
    ) -> None:
        """Load nothing yet.

        Args:
            config: the run's settings.
            loss: the run's loss.
            trained, initial: what `trained_model` and `reference_model` give.
            tokenizer: the run's.
            rows: the held-out rows.
            watcher: is told what the models do not take, and what is scored.
        """
        self.tokenizer = tokenizer
        self.policy = ReferenceModel(trained, tokenizer, watcher.say)
        self.reference = ReferenceModel(initial, tokenizer, watcher.say)
        # To the store the evaluated model is the policy: it stands for the reference only where it is the same.
        moved = config.reference.model_copy(update={"model": initial})
        self._config = config.model_copy(update={"model": trained, "reference": moved})
        self._cached = loss.needs.reference and config.reference.mode == "cached"
        self._rows = rows
        self._watcher = watcher

    def reference_logps(self) -> tuple[LogpSource, dict[str, Any]]:
        """Where the reference log-probs of the held-out rows come from, and what is kept of it."""
        if not self._cached:
            return self.reference(self._rows), {"mode": "live"}
        cached = CachedReference(self._config, self._rows, self._watcher)
        source, used = cached.complete(self.tokenizer, self.policy(self._rows) if cached.is_policy else None)
        return source, {"mode": "cached", **used}
