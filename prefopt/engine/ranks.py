"""The processes that share an optimiser batch, and when they exchange gradients."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
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
        state = PartialState(cpu=on_cpu(wanted), **({"timeout": timeout} if wanted > 1 and timeout else {}))
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
    return num_processes > 1 and not torch.accelerator.is_available()


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside DDP's wrapper; FSDP2 changes a module in place."""
    return module.module if isinstance(module, DistributedDataParallel) else module


@contextmanager
def exchanging(module: nn.Module, wanted: bool) -> Iterator[None]:
    """While open, a backward pass ends with the exchange of gradients between ranks, or keeps them for a later one."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(wanted)
        yield
    elif isinstance(module, DistributedDataParallel) and not wanted:
        with module.no_sync():
            yield
    else:
        yield
