"""How a micro-batch of trees lies in memory: one tree a row, padded on the right.

Shapes: R rows (trees), T tokens of the longest, N scored tokens of all branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prefopt.data.trees import Tree

_PROMPT, _PADDING = 0, -1


@dataclass(frozen=True)
class Layout:
    """What the model reads, and where its predictions of scored tokens are found.

    Attributes:
        input_ids_RT: token ids; 0 in the padding.
        position_ids_RT: positions; every branch continues from the prompt's end.
        branch_ids_RT: 0 in the prompt, 1, 2, ... in the branches, -1 in the padding.
        rows_N, columns_N: the place whose hidden state predicts each scored token.
        targets_N: the scored tokens, slot after slot.
        slots: the slots, in the order of `targets_N`.
        lengths: scored tokens of each slot.
        num_tokens: tokens computed, padding left out.
    """

    input_ids_RT: Tensor
    position_ids_RT: Tensor
    branch_ids_RT: Tensor
    rows_N: Tensor
    columns_N: Tensor
    targets_N: Tensor
    slots: tuple[int, ...]
    lengths: tuple[int, ...]
    num_tokens: int

    @property
    def is_plain(self) -> bool:
        """Whether every row is one prompt with one completion, as the model knows it."""
        return bool((self.branch_ids_RT <= 1).all())

    def model_inputs(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """What the model's forward takes.

        Plain rows leave positions and masks to the model itself: a sliding window or a recurrent layer then works as
        it was trained to, which an explicit mask would override. Padding on the right needs no mask in a causal
        model; with one, a padded place that sees nothing would be NaN.
        """
        if self.is_plain:
            return {"input_ids": self.input_ids_RT}
        return {
            "input_ids": self.input_ids_RT,
            "position_ids": self.position_ids_RT,
            "attention_mask": self._tree_mask(dtype),
        }

    def _tree_mask(self, dtype: torch.dtype) -> Tensor:
        """[R, 1, T, T] additive: a token sees the prompt and the earlier tokens of its own branch."""
        branch = self.branch_ids_RT
        earlier = torch.ones(branch.shape[1], branch.shape[1], dtype=torch.bool, device=branch.device).tril()
        same = (branch[:, None, :] == _PROMPT) | (branch[:, None, :] == branch[:, :, None])
        seen = earlier & same
        mask = torch.zeros(seen.shape, dtype=dtype, device=branch.device)
        return mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def lay_out(trees: Sequence[Tree], device: torch.device | str = "cpu") -> Layout:
    """Place the trees, one a row, on `device`."""
    width = max(tree.num_tokens for tree in trees)
    input_ids = torch.zeros(len(trees), width, dtype=torch.long)
    position_ids = torch.zeros_like(input_ids)
    branch_ids = torch.full_like(input_ids, _PADDING)
    rows: list[int] = []
    columns: list[int] = []
    targets: list[int] = []
    slots: list[int] = []
    lengths: list[int] = []
    for row, tree in enumerate(trees):
        ids = list(tree.prompt)
        positions = list(range(len(ids)))
        branches = [_PROMPT] * len(ids)
        last = len(ids) - 1
        for branch, (slot, completion) in enumerate(tree.branches, 1):
            start = len(ids)
            read = completion.ids[:-1]
            ids += read
            positions += range(last + 1, last + 1 + len(read))
            branches += [branch] * len(read)
            for offset, (token, scored) in enumerate(zip(completion.ids, completion.scored, strict=True)):
                if scored:
                    rows.append(row)
                    columns.append(last if offset == 0 else start + offset - 1)
                    targets.append(token)
            slots.append(slot)
            lengths.append(completion.num_scored)
        input_ids[row, : len(ids)] = torch.tensor(ids)
        position_ids[row, : len(ids)] = torch.tensor(positions)
        branch_ids[row, : len(ids)] = torch.tensor(branches)
    return Layout(
        input_ids_RT=input_ids.to(device),
        position_ids_RT=position_ids.to(device),
        branch_ids_RT=branch_ids.to(device),
        rows_N=torch.tensor(rows, device=device),
        columns_N=torch.tensor(columns, device=device),
        targets_N=torch.tensor(targets, device=device),
        slots=tuple(slots),
        lengths=tuple(lengths),
        num_tokens=sum(tree.num_tokens for tree in trees),
    )
