"""The processes that share an optimiser batch, and when they exchange gradients."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from prefopt.errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    """One process among `count`; all of them hold the same rows and cut them alike.

    Attributes:
        index: this process, from 0.
        count: all processes.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def started(cls, timeout: timedelta | None = None) -> Ranks:
        """The processes a launcher started, found through accelerate; without a launcher, this process alone.

        Args:
            timeout: how long one of them waits for another; None: as long as torch does by default.

        Raises:
            ConfigError: they did not find each other.
        """
        wanted = int(os.environ.get("WORLD_SIZE", "1"))
        settings: dict[str, Any] = {"timeout": timeout} if wanted > 1 and timeout else {}
        if for_deepspeed():
            if find_spec("deepspeed") is None:
                raise ConfigError(
                    "the run was started for DeepSpeed, which is not installed; pip install 'prefopt[deepspeed]'"
                )
            if "LOCAL_RANK" not in os.environ:
                raise ConfigError("the run was started for DeepSpeed by no launcher; use `accelerate launch`")
            if not torch.accelerator.is_available():
                settings["backend"] = "gloo"  # which accelerate would not think of
        state = PartialState(cpu=on_cpu(wanted), **settings)
        if state.num_processes != wanted:
            raise ConfigError(
                f"the run was started with {wanted} processes, but {state.num_processes} share a process group"
            )
        return cls(state.process_index, state.num_processes)

    def total(self, *counts: int) -> list[int]:
        """Each count summed over all ranks."""
        if self.count == 1:
            return list(counts)
        summed = torch.tensor(counts, device=PartialState().device)
        dist.all_reduce(summed)
        return [int(value) for value in summed.tolist()]

    def first(self, value: bool) -> bool:
        """What the first rank says."""
        return bool(self.total(int(value and self.index == 0))[0])

    def any(self, value: bool) -> bool:
        """Whether any rank says so."""
        return self.total(int(value))[0] > 0

    def union(self, flags: Tensor) -> Tensor:
        """[n] of 0 and 1: 1 where any rank has it."""
        if self.count == 1:
            return flags
        shared = flags.to(PartialState().device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return shared.cpu()

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.count > 1:
            dist.barrier()

    def gather(self, own: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """The rows that every rank holds.

        Args:
            own: this rank's [n, ...].
            sizes: rows of every rank.
        """
        if self.count == 1:
            return [own]
        room = own.new_zeros(max(sizes), *own.shape[1:])
        room[: len(own)] = own
        found = [torch.empty_like(room) for _ in sizes]
        dist.all_gather(found, room)
        return [rows[:size] for rows, size in zip(found, sizes, strict=True)]


ALONE = Ranks()


def on_cpu(num_processes: int) -> bool:
    """Whether accelerate has to be told that processes find no GPU: otherwise it makes no group of several."""
    return num_processes > 1 and not torch.accelerator.is_available() and not for_deepspeed()


def for_deepspeed() -> bool:
    """Whether a launcher started this process for DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside DDP's or DeepSpeed's wrapper; FSDP2 changes a module in place."""
    if not isinstance(module, DistributedDataParallel) and not _is_zero(module):
        return module
    inner: nn.Module = module.module  # type: ignore[assignment,unused-ignore]
    return inner


def in_shards(own: Tensor) -> bool:
    """Whether each process holds a part of a weight: under FSDP2, or as a parameter under ZeRO-3."""
    return isinstance(own, DTensor) or hasattr(own, "ds_id")


def whole(own: Tensor) -> Tensor:
    """A weight with the shards of all processes put together; all of them ask for it.

    Args:
        own: of a model under ZeRO-3, the parameter itself; one that is in no shards comes back as it is.
    """
    if not in_shards(own):
        return own
    if isinstance(own, DTensor):
        return own.full_tensor()
    import deepspeed  # type: ignore[import-not-found,unused-ignore]

    with deepspeed.zero.GatheredParameters([own]):
        return own.detach().clone()


@contextmanager
def exchanging(module: nn.Module, wanted: bool) -> Iterator[None]:
    """While open, a backward pass ends with the exchange of gradients between ranks, or keeps them for a later one."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(wanted)
        yield
    elif _is_zero(module):
        # Stages 2 and 3 exchange in every backward pass; told which is the last, they add up what came before.
        module.set_gradient_accumulation_boundary(wanted)  # type: ignore[operator]
        yield
    elif isinstance(module, DistributedDataParallel) and not wanted:
        with module.no_sync():
            yield
    else:
        yield


def _is_zero(module: nn.Module) -> bool:
    """Whether DeepSpeed's engine wraps it: never before deepspeed was imported, which takes seconds."""
    deepspeed = sys.modules.get("deepspeed")
    return deepspeed is not None and isinstance(module, deepspeed.DeepSpeedEngine)
