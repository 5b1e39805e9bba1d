"""The processes that share an optimiser batch, and when they exchange gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel


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
    def joined(cls) -> Ranks:
        """Those of the default process group, or this process alone where there is none."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    def gather(self, own: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """The vector of every rank.

        Args:
            own: this rank's vector.
            sizes: elements of every rank's.
        """
        if self.count == 1:
            return [own]
        room = own.new_zeros(max(sizes))
        room[: len(own)] = own
        found = [torch.empty_like(room) for _ in sizes]
        dist.all_gather(found, room)
        return [vector[:size] for vector, size in zip(found, sizes, strict=True)]


ALONE = Ranks()


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
