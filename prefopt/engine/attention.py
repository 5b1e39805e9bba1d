"""Attention over packed trees: every token sees its prompt and the earlier tokens of its own branch, nothing else.

The trees of a micro-batch lie one after another in a single row, so that the linear layers see no padding. Attention is
taken tree by tree: causal within the prompt, then each branch against the prompt and itself. No mask over the whole
row exists, except as FlexAttention's block mask where the model was loaded with `flex_attention`.

Shapes: T tokens of the row, Q queries, K keys, A heads, G key-value heads, D head size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from prefopt.engine.transfer import placed

_PREFIX = "trees+"
_FOREIGN = ("s_aux", "position_bias", "head_mask", "cache")

Attention = Callable[..., tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Segments:
    """Where the trees lie in the row.

    Attributes:
        trees: per tree the tokens of its prompt, then of each branch that has any; a tree with a single branch is one
            causal segment.
        device: where the row is.
    """

    trees: tuple[tuple[int, ...], ...]
    device: torch.device

    @property
    def lengths(self) -> list[int]:
        """Tokens of every prompt and branch, in the order of the row."""
        return [length for tree in self.trees for length in tree]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with one branch."""
        return max(tree[0] + max(tree[1:], default=0) for tree in self.trees)

    @cached_property
    def block_mask(self) -> BlockMask:
        """The same layout as FlexAttention reads it."""
        tree_ids = [number for number, tree in enumerate(self.trees) for _ in range(sum(tree))]
        branch_ids = [branch for tree in self.trees for branch, length in enumerate(tree) for _ in range(length)]
        tree_T, branch_T = placed(tree_ids, self.device), placed(branch_ids, self.device)

        def seen(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            same = (branch_T[key] == 0) | (branch_T[key] == branch_T[query])
            return (tree_T[key] == tree_T[query]) & same & (key <= query)

        size = len(tree_ids)
        make = _compiled(create_block_mask) if self.device.type == "cuda" else create_block_mask
        return make(seen, None, None, size, size, device=str(self.device))


def install(model: PreTrainedModel) -> None:
    """Let the model attend over trees when its forward is given `trees`, and as it always did when it is not.

    Safe to repeat. Models that do not take their attention from transformers' interface never ask; the proof at the
    start of a run finds them out.
    """
    native = model.config._attn_implementation or "eager"
    if native.startswith(_PREFIX):
        return
    name = _PREFIX + native
    AttentionInterface.register(name, attend)
    if native in ALL_MASK_ATTENTION_FUNCTIONS:
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[native])
    model.config._attn_implementation = name


def uninstall(model: PreTrainedModel) -> None:
    """Undo `install`."""
    name = model.config._attn_implementation
    if name is not None and name.startswith(_PREFIX):
        model.config._attn_implementation = name.removeprefix(_PREFIX)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    trees: Segments | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """What transformers calls in place of its own attention.

    Args:
        module: the attention layer; says how the model attended before `install`.
        query: [1, A, T, D].
        key, value: [1, G, T, D].
        attention_mask: read by plain rows only.
        scaling: of the scores; None: one over the root of D.
        dropout: of the attention weights.
        trees: how the row divides into trees; None: plain rows.
        softcap: the scores are capped to softcap * tanh(scores / softcap).
        sliding_window: a token sees this many positions, its own included.
        others: what else the model hands to its attention.

    Returns:
        [1, T, A, D], and no attention weights.

    Raises:
        ValueError: the model asks for an attention that trees do not have: sinks, a bias by position, both directions.
    """
    kind = query.device.type
    if torch.is_autocast_enabled(kind):  # as torch does at the door of its own attention; rotated queries are float32
        query, key, value = (each.to(torch.get_autocast_dtype(kind)) for each in (query, key, value))
    if trees is None:
        told = {"softcap": softcap, "sliding_window": sliding_window}
        given = {name: setting for name, setting in told.items() if setting is not None}
        plain = _native(module)
        return plain(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **given, **others)
    foreign = sorted(name for name in _FOREIGN if others.get(name) is not None)
    if foreign or others.get("is_causal") is False:
        raise ValueError(f"attention over trees does not know {', '.join(foreign) or 'is_causal=False'}")
    num_groups = key.shape[1]
    # With one row, the groups of heads that share a key head can be the batch: keys are then expanded without a copy.
    query = query.view(num_groups, -1, *query.shape[2:])
    key, value = key.transpose(0, 1), value.transpose(0, 1)
    window = sliding_window if sliding_window is not None and sliding_window < trees.longest else None
    # Without a GPU to compile it for, FlexAttention has no backward pass to rely on.
    if query.is_cuda and softcap is None and window is None and _native_name(module) == "flex_attention":
        return _flex(query, key, value, scaling, trees).transpose(1, 2), None
    pieces = zip(*(torch.split(each, trees.lengths, 2) for each in (query, key, value)), strict=True)
    outs = []
    for tree in trees.trees:
        prompt_query, prompt_key, prompt_value = next(pieces)
        outs.append(_causal(prompt_query, prompt_key, prompt_value, scaling, dropout, softcap, window))
        for _ in tree[1:]:
            own_query, own_key, own_value = next(pieces)
            keys, values = torch.cat([prompt_key, own_key], 2), torch.cat([prompt_value, own_value], 2)
            outs.append(_causal(own_query, keys, values, scaling, dropout, softcap, window))
    return torch.cat(outs, 2).flatten(0, 1).transpose(0, 1)[None], None


def _causal(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """[G, A / G, Q, D] attention where the last query stands at the last key and none sees beyond its own place.

    Args:
        query: [G, A / G, Q, D].
        key, value: [G, 1, K, D], K at least Q.
        scaling, dropout, softcap: as in `attend`.
        window: keys that a query sees, its own included; None: all.
    """
    key, value = (each.expand(-1, query.shape[1], -1, -1) for each in (key, value))
    num_queries, num_keys = query.shape[2], key.shape[2]
    if softcap is None and window is None:
        if num_queries == num_keys:
            return scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True, scale=scaling)
        ending = causal_lower_right(num_queries, num_keys)
        return scaled_dot_product_attention(query, key, value, ending, dropout_p=dropout, scale=scaling)
    ages_QK = torch.arange(num_keys - num_queries, num_keys, device=query.device)[:, None]
    ages_QK = ages_QK - torch.arange(num_keys, device=query.device)
    seen_QK = (ages_QK >= 0) if window is None else (ages_QK >= 0) & (ages_QK < window)
    if softcap is None:
        return scaled_dot_product_attention(query, key, value, seen_QK, dropout_p=dropout, scale=scaling)
    scores = (query @ key.transpose(-1, -2)) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = ((scores / softcap).tanh() * softcap).masked_fill(~seen_QK, -torch.inf)
    weights = torch.softmax(scores, -1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    return torch.dropout(weights, dropout, dropout > 0) @ value


def _flex(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, trees: Segments) -> Tensor:
    """[1, A, T, D] attention over the whole row by FlexAttention, for `query` and `key` as `_causal` takes them."""
    flat = query.flatten(0, 1)[None], key.transpose(0, 1), value.transpose(0, 1)
    run: Any = _compiled(flex_attention) if query.is_cuda else flex_attention
    out: Tensor = run(*flat, block_mask=trees.block_mask, scale=scaling, enable_gqa=True)
    return out


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """For any length of the row; uncompiled, both functions hold the whole square of query and key."""
    return torch.compile(function, dynamic=True)


def _native_name(module: nn.Module) -> str:
    config: Any = module.config
    name: str = config._attn_implementation
    return name.removeprefix(_PREFIX)


def _native(module: nn.Module) -> Attention:
    """How the layer attended before `install`; each model file has an eager attention of its own."""
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    found: Attention = ALL_ATTENTION_FUNCTIONS.get(_native_name(module), eager)
    return found
