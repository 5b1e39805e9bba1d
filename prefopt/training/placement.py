"""Where a run computes: one process or several that share every batch, as accelerate's launcher says."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping

from accelerate import Accelerator
from accelerate.utils import DistributedType, GradientAccumulationPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from prefopt.engine.logps import Scorer
from prefopt.engine.ranks import Ranks, in_shards, on_cpu
from prefopt.errors import ConfigError
from prefopt.training.zero import Zero, settle

_DDP = (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.MULTI_XPU, DistributedType.MULTI_NPU)
_ASKED_FOR = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}


class Placement:
    """One process, DDP, FSDP2 or DeepSpeed ZeRO; models are put where they compute and wrapped as that needs.

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
        self._fsdp, self._deepspeed = (kind == each for each in (DistributedType.FSDP, DistributedType.DEEPSPEED))
        self._zero: Zero | None = None
        self.shards = self._fsdp or (self._deepspeed and self._accelerator.deepspeed_plugin.zero_stage == 3)
        if self._fsdp and not self._accelerator.is_fsdp2:
            raise ConfigError("the run was started for FSDP 1; this version takes FSDP2: set fsdp_version to 2")
        if not self._fsdp and not self._deepspeed and kind not in (DistributedType.NO, *_DDP):
            raise ConfigError(f"the run was started for {kind.value}; this version takes DDP, FSDP2 and DeepSpeed")
        if self._deepspeed:
            # Models are loaded whole, proven, and then divided.
            unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
            # DeepSpeed calls what torch renames, hundreds of times a step.
            warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)

    def spread(self, policy: Scorer, optimizer: Optimizer, limit: float | None) -> tuple[nn.Module, Optimizer]:
        """The policy as this run trains it, and the optimiser that takes its steps.

        Args:
            policy: changed in place; one that is sharded already stays as it is.
            optimizer: over the policy's parameters, which may change; under DeepSpeed, whose steps `clip` takes, the
                one that comes back does nothing in its own.
            limit: as for `clip`.

        Raises:
            ConfigError: DeepSpeed cannot train a policy like this, or its own config would change the run.
        """
        if isinstance(policy, FSDPModule):
            return policy, optimizer
        if self._deepspeed:
            settle(self._accelerator.deepspeed_plugin.deepspeed_config, policy, optimizer, limit, self.ranks.count)
            # Sizes of buckets that are left to accelerate depend on it.
            policy.config = policy.model.config  # type: ignore[assignment]
            engine, stepped = self._accelerator.prepare(policy, optimizer)
            self._zero = Zero(engine, policy)
            return engine, stepped
        # Accelerate shards layer by layer, and asks the module it is given which those are.
        policy._no_split_modules = policy.model._no_split_modules  # type: ignore[assignment]
        spread: nn.Module = self._accelerator.prepare(policy, optimizer)[0]
        return spread, optimizer

    def held(self, policy: nn.Module, optimizer: Optimizer) -> tuple[Mapping[str, Tensor], Optimizer | Zero]:
        """What this process holds of the weights in training, by name, and the state of their optimiser."""
        if self._zero is not None:
            return self._zero.weights, self._zero
        return {name: own for name, own in policy.named_parameters() if own.requires_grad}, optimizer

    def place(self, reference: Scorer, *, moves: bool = False) -> Scorer:
        """A model that is only read, where this run computes; under DeepSpeed whole in each process.

        Args:
            reference: the model.
            moves: whether it is to be drawn towards the policy.

        Raises:
            ConfigError: it moves, or has weights in common with a policy, under ZeRO-3.
        """
        if self._deepspeed and self.shards and moves:
            raise ConfigError(
                "under ZeRO-3 no process holds the policy that reference.update_steps draws the reference towards; "
                "leave it out, or use stage 2"
            )
        if self._deepspeed and any(in_shards(own) for own in reference.parameters()):
            raise ConfigError(
                "under ZeRO-3 a live reference cannot share the weights of the policy; set reference.mode to cached"
            )
        reference = reference.requires_grad_(False).to(self.device)
        if self._fsdp:
            reference._no_split_modules = reference.model._no_split_modules  # type: ignore[assignment]
            fsdp2_prepare_model(self._accelerator, reference)
            # No backward pass follows, after which the outermost weights would be given back.
            reference.set_reshard_after_forward(True)  # type: ignore[operator]
        return reference

    def backward(self, value: Tensor) -> None:
        """Back-propagate a scalar."""
        if self._zero is not None:
            self._zero.engine.backward(value)  # accelerate's would take a step as well
        else:
            self._accelerator.backward(value)

    def clip(self, policy: nn.Module, limit: float | None) -> Tensor:
        """Scale the gradient down to L2 norm `limit` where it is longer; its norm before, over all processes.

        Under DeepSpeed the step is taken here too, unless the norm is not finite.
        """
        if self._zero is not None:
            return self._zero.step()
        norm = self._accelerator.clip_grad_norm_(policy.parameters(), float("inf") if limit is None else limit)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm
