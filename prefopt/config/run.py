"""Everything a run needs, validated before anything is loaded."""

from __future__ import annotations

from typing import Annotated

import pydantic
from pydantic import Field

from prefopt.config.checkpoints import CheckpointsConfig
from prefopt.config.data import DataConfig
from prefopt.config.evaluation import EvaluationConfig
from prefopt.config.loss import LossConfig
from prefopt.config.model import ModelConfig
from prefopt.config.place import Place
from prefopt.config.plugins import PluginConfig
from prefopt.config.reference import ReferenceConfig
from prefopt.config.tracking import TrackingConfig
from prefopt.config.training import TrainingConfig
from prefopt.section import Section


class RunConfig(Section):
    """A whole run."""

    model: ModelConfig
    """The policy to train: a name, or a mapping."""
    data: DataConfig
    """The rows."""
    loss: Annotated[tuple[LossConfig, ...], Field(min_length=1)]
    """A name, a mapping with `name`, or a list of mappings with weights."""
    reference: ReferenceConfig = ReferenceConfig()
    """The reference model."""
    training: TrainingConfig = TrainingConfig()
    """The optimisation."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What is measured on held-out rows."""
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    """What a run can be resumed from."""
    tracking: TrackingConfig | None = None
    """Trackers besides metrics.jsonl: a name, a list of names, or a mapping with `trackers`."""
    output_dir: Place
    """Folder for the model, the resolved config, metrics.jsonl, run.json and checkpoints."""
    plugins: tuple[PluginConfig, ...] = ()
    """Python files that register losses, besides the installed plugins: paths, or mappings with `path`."""

    @pydantic.model_validator(mode="after")
    def _go_together(self) -> RunConfig:
        training, evaluation = self.training, self.evaluation
        if training.warmup_steps and training.scheduler == "constant":
            raise ValueError(
                f"training.warmup_steps = {training.warmup_steps} has no effect with training.scheduler 'constant'; "
                "use 'constant_with_warmup'"
            )
        if self.data.evaluation is None:
            for key in ("every_steps", "samples"):
                if getattr(evaluation, key):
                    raise ValueError(f"evaluation.{key} needs held-out rows: set data.evaluation")
        reference = self.reference.model
        if reference is not None and reference.adapter is not None and reference.adapter.merge:
            raise ValueError("reference.model.adapter.merge has no effect: a reference is never saved; remove it")
        if self.model.quantization is not None and self.model.adapter is None:
            raise ValueError(
                "model.quantization holds weights in too few bits to train them; set model.adapter (one saved before: "
                "name its base, and model.adapter.path)"
            )
        if self.checkpoints.keep_best is not None and evaluation.every_steps is None:
            raise ValueError("checkpoints.keep_best compares evaluations during training: set evaluation.every_steps")
        if self.reference.mode == "none" and self.reference.model is not None:
            raise ValueError("reference.model has no effect with reference.mode 'none'; remove one of them")
        if self.reference.update_steps is not None and self.reference.mode != "live":
            raise ValueError(
                "reference.update_steps moves the reference, so no stored log-prob stays true; it needs reference.mode "
                f"'live', not {self.reference.mode!r}"
            )
        if self.reference.update_steps is None and self.reference.update_weight != 1.0:
            raise ValueError("reference.update_weight has no effect without reference.update_steps")
        if self.reference.mode != "cached":
            for key in ("cache_dir", "strict", "verify_rows"):
                if getattr(self.reference, key) != getattr(ReferenceConfig(), key):
                    raise ValueError(
                        f"reference.{key} has no effect with reference.mode {self.reference.mode!r}; use 'cached'"
                    )
        return self
