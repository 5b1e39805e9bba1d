"""What a computation allocates and multiplies, counted while it runs on the meta device, where nothing is held."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While open, every new storage and every matrix product is entered under the part that is being computed.

    Attributes:
        part: what is being computed now.
        live: part -> bytes that exist now.
        peak: the same at the moment at which the sum was largest.
        flops: part -> floating-point operations so far; a product of a matrix [m, k] with [k, n] takes 2 m k n, and
            attention counts every query with every key, as torch's own counter does.
        events: (number of a storage, its bytes) in the order in which storages come, and (number, 0) where they go.
    """

    def __init__(self, known: Iterable[Tensor], part: str) -> None:
        """Count from nothing.

        Args:
            known: what exists already and is not counted.
            part: what is computed first.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.part = part
        self.live: Counter[str] = Counter()
        self.peak: Mapping[str, int] = {}
        self.flops: Counter[str] = Counter()
        self.events: list[tuple[int, int]] = []
        self._serial = 0
        self._serials: dict[int, int] = {}
        self._total = self._largest = 0
        self._parts: dict[int, str] = {}
        self._known = [tensor.untyped_storage() for tensor in known]  # held, so that no address is used again
        self._parts.update((storage._cdata, "") for storage in self._known)

    def rename(self, tensor: Tensor, part: str) -> None:
        """Enter what was counted before under another part."""
        storage = tensor.untyped_storage()
        before = self._parts.get(storage._cdata, "")
        if before:
            self.live[before] -= storage.nbytes()
            self.live[part] += storage.nbytes()
            self._parts[storage._cdata] = part

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute as ever, and enter what came of it."""
        named = dict(kwargs or {})
        out = func(*args, **named)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._enter(leaf)
        self.flops[self.part] += _flops(func, args, named, out)
        return out

    def _enter(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._parts or not storage.nbytes():
            return
        self._parts[storage._cdata] = self.part
        self.live[self.part] += storage.nbytes()
        self._total += storage.nbytes()
        self._serial += 1
        self._serials[storage._cdata] = self._serial
        self.events.append((self._serial, storage.nbytes()))
        weakref.finalize(storage, self._leave, storage._cdata, storage.nbytes()).atexit = False
        if self._total > self._largest:
            self._largest, self.peak = self._total, dict(self.live)

    def _leave(self, address: int, num_bytes: int) -> None:
        self.live[self._parts.pop(address)] -= num_bytes
        self._total -= num_bytes
        self.events.append((self._serials.pop(address), 0))


def _flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    packet = func.overloadpacket
    if packet is _ATTENTION:
        return int(sdpa_flop_count(*(each.shape for each in args[:3])))  # type: ignore[no-untyped-call]
    if packet is _ATTENTION_BACKWARD:
        return int(sdpa_backward_flop_count(*(each.shape for each in args[:4])))  # type: ignore[no-untyped-call]
    count: Callable[..., int] | None = flop_registry.get(packet)
    return 0 if count is None else int(count(*args, **kwargs, out_val=out))
