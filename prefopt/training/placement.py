"""Where a run computes: one process or several that share every batch, as accelerate's launcher says."""

from __future__ import annotations

import os

from accelerate import Accelerator
from accelerate.utils import DistributedType, GradientAccumulationPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from prefopt.engine.logps import Scorer
from prefopt.engine.ranks import Ranks, on_cpu
from prefopt.errors import ConfigError

_DDP = (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.MULTI_XPU, DistributedType.MULTI_NPU)
_ASKED_FOR = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}


class Placement:
    """One process, DDP or FSDP2; models are put where they compute and wrapped as that needs.

    Attributes:
        ranks: the processes.
        device: where this one computes.
        shards: whether each process holds a part of every model.
    """

    def __init__(self) -> None:
        """Find the processes that were started together.

        Raises:
            ConfigError: they did not find each other, or would share the model in a way this version does not know.
        """
        self.ranks = Ranks.started()
        # Every process looks at the whole model before it is sharded; with this one on, all but the first hold none.
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
        # Said here, so that no variable of a launcher's environment scales or casts the gradient behind our back.
        self._accelerator = Accelerator(
            cpu=on_cpu(self.ranks.count),
            mixed_precision="no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        )
        self.device = self._accelerator.device
        kind = self._accelerator.distributed_type
        asked = next((name for key, name in _ASKED_FOR.items() if os.environ.get(key, "").lower() == "true"), None)
        if asked is not None and kind in (DistributedType.NO, *_DDP):
            raise ConfigError(
                f"the run was started for {asked}, which accelerate does not give on {self.device.type} with "
                f"{self.ranks.count} process(es); start it on several GPUs, or without {asked}"
            )
        self.shards = kind == DistributedType.FSDP
        if self.shards and not self._accelerator.is_fsdp2:
            raise ConfigError("the run was started for FSDP 1; this version takes FSDP2: set fsdp_version to 2")
        if not self.shards and kind not in (DistributedType.NO, *_DDP):
            raise ConfigError(f"the run was started for {kind.value}; this version takes DDP and FSDP2")

    def spread(self, policy: Scorer, optimizer: Optimizer) -> nn.Module:
        """The policy as this run trains it; the optimiser is given its parameters.

        Args:
            policy: changed in place; one that is sharded already stays as it is.
            optimizer: over the policy's parameters.
        """
        if isinstance(policy, FSDPModule):
            return policy
        # Accelerate shards layer by layer, and asks the module it is given which those are.
        policy._no_split_modules = policy.model._no_split_modules  # type: ignore[assignment]
        spread: nn.Module = self._accelerator.prepare(policy, optimizer)[0]
        return spread

    def place(self, reference: Scorer) -> Scorer:
        """A model that is only read, where this run computes."""
        reference = reference.requires_grad_(False).to(self.device)
        if self.shards:
            reference._no_split_modules = reference.model._no_split_modules  # type: ignore[assignment]
            fsdp2_prepare_model(self._accelerator, reference)
            # No backward pass follows, after which the outermost weights would be given back.
            reference.set_reshard_after_forward(True)  # type: ignore[operator]
        return reference

    def backward(self, value: Tensor) -> None:
        """Back-propagate a scalar."""
        self._accelerator.backward(value)

    def clip(self, policy: nn.Module, limit: float | None) -> Tensor:
        """Scale the gradient down to L2 norm `limit` where it is longer; its norm before, over all processes."""
        norm = self._accelerator.clip_grad_norm_(policy.parameters(), float("inf") if limit is None else limit)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm
