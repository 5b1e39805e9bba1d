"""The kernels a run would choose on its own device, chosen on the meta device too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from prefopt.engine import attention as engine_attention
from prefopt.engine import head
from prefopt.plan.ledger import Ledger

_PRODUCTS: frozenset[Any] = frozenset(
    (linear, torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, Tensor.matmul, Tensor.__matmul__)
)


class _Corner:
    """In place of torch's lower right triangle, a kind of tensor that cannot be made where tensors are counted."""

    def __init__(self, num_queries: int, num_keys: int) -> None:
        """Stand where the triangle would."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Makes torch take it for a tensor and ask the open `Kernels` what to do with it."""
        raise NotImplementedError


class Kernels(TorchFunctionMode):
    """While open, attention saves what a fused kernel saves, and products are taken in the precision of autocast.

    On the meta device torch would take attention apart into scores of every query with every key.
    """

    def __init__(self, ledger: Ledger, device: str, autocast: torch.dtype | None) -> None:
        """Choose as on a device.

        Args:
            ledger: is told what belongs to attention.
            device: "cpu" or "cuda".
            autocast: precision of the products; None: that of the weights.
        """
        super().__init__()
        self._ledger = ledger
        self._device = device
        self._autocast = autocast
        self._narrowed: dict[int, Tensor] = {}  # autocast keeps the narrow copy of every weight

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute as the device would."""
        named = dict(kwargs or {})
        attends = func is scaled_dot_product_attention
        if self._autocast is not None and self._ledger.part != "head" and (attends or func in _PRODUCTS):
            args = tuple(self._narrow(each) for each in args)
            named = {name: self._narrow(each) for name, each in named.items()}
        return self._attend(*args, **named) if attends else func(*args, **named)

    def _narrow(self, value: Any) -> Any:
        assert self._autocast is not None
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not value.is_leaf or not value.requires_grad:
            return value.to(self._autocast)
        return self._narrowed.setdefault(id(value), value.to(self._autocast))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | _Corner | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        before = self._ledger.part
        self._ledger.part = "attention" if before == "layers" else before
        if enable_gqa:
            groups = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        mask = None
        if attn_mask is not None and not (isinstance(attn_mask, _Corner) and self._device == "cuda"):
            # The kernel reads a mask as numbers to add; one that is no triangle of the whole is written out for it.
            mask = torch.empty(query.shape[-2], key.shape[-2], dtype=query.dtype, device="meta")
        out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, dropout_p, is_causal and mask is None, attn_mask=mask, scale=scale
        )[0]
        self._ledger.part = before
        return out


@contextmanager
def kernels_of(device: str) -> Iterator[None]:
    """While open, the engine chooses on the meta device as it does on this one."""
    attention: Any = engine_attention
    library: Any = torch
    sizes, triangle, enabled = head._CHUNK_ELEMENTS, attention.causal_lower_right, torch.is_autocast_enabled
    sizes["meta"] = sizes[device]
    attention.causal_lower_right = _Corner
    # torch knows no autocast on the meta device, not even that it is off.
    library.is_autocast_enabled = lambda kind=None: kind != "meta" and enabled(kind)
    try:
        yield
    finally:
        del sizes["meta"]
        attention.causal_lower_right = triangle
        library.is_autocast_enabled = enabled
