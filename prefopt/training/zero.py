"""DeepSpeed ZeRO: its settings made those of the run, its step, and what each process holds of weights and moments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from prefopt.engine.logps import Scorer
from prefopt.errors import ConfigError

# Of a DeepSpeed config: what this file sets itself, and what changes no number.
_OURS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "fp16",
    "bf16",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
)
# Of its zero_optimization: what rounds weights or gradients, or takes steps of its own.
_INEXACT = ("zero_quantized_weights", "zero_quantized_gradients", "zero_quantized_nontrainable_weights", "zenflow")
_HARMLESS = ("zero_optimization", "steps_per_print", "wall_clock_breakdown", "comms_logger", "aio", "memory_breakdown")
# ZeRO lays all weights end to end and cuts where it likes, so each weight has to be updated on its own.
_ELEMENTWISE = (torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop)


def settle(settings: dict[str, Any], policy: Scorer, optimizer: Optimizer, limit: float | None, count: int) -> None:
    """Give a DeepSpeed config what the run's own config says: steps, clipping and precision are never the launcher's.

    Args:
        settings: changed in place.
        policy: the model to train.
        optimizer: over its parameters.
        limit: the longest gradient, in L2 norm; None: any.
        count: of processes.

    Raises:
        ConfigError: a run like this one cannot be divided by DeepSpeed, or the config holds what would change it.
    """
    divided = settings["zero_optimization"]
    stage = divided.get("stage")
    if stage not in (1, 2, 3):
        raise ConfigError(f"the run was started for DeepSpeed ZeRO stage {stage}; this version takes 1, 2 and 3")
    unknown = sorted(set(settings) - {*_OURS, *_HARMLESS}) + [key for key in _INEXACT if divided.get(key)]
    if unknown:
        raise ConfigError(
            f"the DeepSpeed config holds {', '.join(unknown)}; the run's own config says how it trains: leave it out"
        )
    for part in ("offload_optimizer", "offload_param"):
        offload = divided.get(part) or {}
        if offload.get("device") == "nvme" or offload.get("ratio", 1) != 1 or offload.get("super_offload"):
            raise ConfigError(
                f"the DeepSpeed config's {part} is {offload}; this version takes device cpu or none, whole"
            )
    if not isinstance(optimizer, _ELEMENTWISE):
        raise ConfigError(
            f"DeepSpeed divides weights without regard to their shapes, which {type(optimizer).__name__} reads; "
            "set training.optimizer to adamw, rmsprop or sgd"
        )
    if any(own.dtype != torch.float32 for own in policy.parameters()):
        raise ConfigError(
            "under DeepSpeed weights are float32 in this version; set model.dtype to float32 and leave out "
            "model.quantization (model.autocast may be bfloat16)"
        )
    if policy.autocast is torch.float16:
        raise ConfigError("under DeepSpeed model.autocast may be bfloat16, not float16, whose gradients need scaling")
    settings.update(
        train_batch_size=count,
        train_micro_batch_size_per_gpu=1,
        gradient_accumulation_steps=1,
        gradient_clipping=0.0 if limit is None else limit,
        fp16={"enabled": False},
        bf16={"enabled": False},
        zero_force_ds_cpu_optimizer=False,  # it would take DeepSpeed's AdamW for whatever was asked for
    )


class Zero:
    """A policy in DeepSpeed's engine: takes its steps, and gives and takes back this process's part of its state.

    Attributes:
        engine: wraps the policy.
        weights: name -> this process's part of the weights in training, laid end to end; the name says how.
    """

    def __init__(self, engine: Any, policy: Scorer) -> None:
        """Take the policy up.

        Args:
            engine: DeepSpeed's, around the policy.
            policy: the model in training.
        """
        self.engine = engine
        self._divided = engine.optimizer
        stage = engine.zero_optimization_stage()
        self._shards_weights = stage == 3
        if self._shards_weights and policy.head is not None:
            import deepspeed  # type: ignore[import-not-found,unused-ignore]

            # The head is computed outside its own module: its weight is to be there for the whole of the policy.
            for own in policy.head.linear.parameters():
                deepspeed.zero.register_external_parameter(policy, own)
        parts = (
            self._divided.fp32_partitioned_groups_flat
            if self._shards_weights
            else self._divided.single_partition_of_fp32_groups
        )
        # Parts of equal size may hold other weights where they are laid out otherwise.
        layout = f"zero{stage}" + (".round_robin" if getattr(self._divided, "round_robin_gradients", False) else "")
        self.weights: dict[str, Tensor] = {f"{layout}.{number}": part for number, part in enumerate(parts)}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of the optimiser, over the parts."""
        with self._whole_optimizer() as optimizer:
            return [dict(group) for group in optimizer.param_groups]

    def step(self) -> Tensor:
        """Clip the gradient and take the optimiser's step, unless the gradient is not finite.

        Returns:
            Its L2 norm before, over all processes; infinite where no step was taken.
        """
        self.engine.step()
        norm = self.engine.get_global_grad_norm() if self.engine.was_step_applied() else float("inf")
        return torch.as_tensor(norm).detach().float()

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state over the parts."""
        with self._whole_optimizer() as optimizer:
            return optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the optimiser's state back, and make the model's weights those of the parts."""
        with self._whole_optimizer() as optimizer:
            optimizer.load_state_dict(state)
        if not self._shards_weights:
            self._divided.update_lp_params()
            return
        kept_whole = self._divided.persistent_parameters
        if kept_whole:
            kept_whole[0].partition(kept_whole)
        for number in range(len(self.weights)):
            self._divided._reassign_or_swap_out_partitioned_parameters(number)
        if kept_whole:
            kept_whole[0].all_gather(kept_whole)

    @contextmanager
    def _whole_optimizer(self) -> Iterator[Optimizer]:
        """The optimiser with its parts in place: ZeRO-3 hands them to it one by one, in its step only."""
        if not self._shards_weights:
            yield self._divided.optimizer
            return
        self._divided._set_fp32_optimizer_param_groups()
        try:
            yield self._divided.optimizer
        finally:
            self._divided._clear_fp32_optimizer_param_groups()
