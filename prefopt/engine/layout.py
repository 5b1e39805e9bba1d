"""How a micro-batch of trees lies in memory: packed one after another in one row, or padded plain rows.

Shapes: R rows, T tokens of a row, N scored tokens of all branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prefopt.data.trees import Tree
from prefopt.engine.attention import Segments
from prefopt.engine.transfer import placed


@dataclass(frozen=True)
class Layout:
    """What the model reads, and where its predictions of scored tokens are found.

    Attributes:
        input_ids_RT: token ids; 0 in the padding.
        position_ids_RT: positions; every branch continues from the prompt's end.
        segments: how a packed row divides into trees; None: plain rows, one prompt with one completion each.
        places_N: the place, counted over the rows laid end to end, whose hidden state predicts each scored token.
        targets_N: the scored tokens, slot after slot.
        slots: the slots, in the order of `targets_N`.
        lengths: scored tokens of each slot.
        num_tokens: tokens computed, padding left out.
    """

    input_ids_RT: Tensor
    position_ids_RT: Tensor
    segments: Segments | None
    places_N: Tensor
    targets_N: Tensor
    slots: tuple[int, ...]
    lengths: tuple[int, ...]
    num_tokens: int

    @property
    def model_inputs(self) -> dict[str, Any]:
        """What the model's forward takes.

        Plain rows leave positions and masks to the model itself: a sliding window or a recurrent layer then works as
        it was trained to. Padding on the right needs no mask in a causal model; with one, a padded place that sees
        nothing would be NaN. Packed rows bring their own attention; a mask of four dimensions, which nothing reads,
        keeps transformers from building one.
        """
        if self.segments is None:
            return {"input_ids": self.input_ids_RT}
        unread = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.input_ids_RT.device)
        return {
            "input_ids": self.input_ids_RT,
            "position_ids": self.position_ids_RT,
            "attention_mask": unread,
            "trees": self.segments,
        }


def lay_out(trees: Sequence[Tree], device: torch.device | str = "cpu", *, packed: bool = True) -> Layout:
    """Place the trees on `device`: in one row, or as plain rows, which take one branch each."""
    ids: list[list[int]] = []
    positions: list[list[int]] = []
    places: list[tuple[int, int]] = []
    targets: list[int] = []
    slots: list[int] = []
    lengths: list[int] = []
    segments: list[tuple[int, ...]] = []
    for tree in trees:
        assert packed or len(tree.branches) == 1
        if not packed or not ids:
            ids.append([])
            positions.append([])
        row, own = ids[-1], positions[-1]
        row += tree.prompt
        own += range(len(tree.prompt))
        last = len(row) - 1
        for slot, completion in tree.branches:
            start = len(row)
            row += completion.ids[:-1]
            own += range(len(tree.prompt), len(tree.prompt) + len(row) - start)
            for offset, (token, scored) in enumerate(zip(completion.ids, completion.scored, strict=True)):
                if scored:
                    places.append((len(ids) - 1, last if offset == 0 else start + offset - 1))
                    targets.append(token)
            slots.append(slot)
            lengths.append(completion.num_scored)
        read = [len(completion.ids) - 1 for _, completion in tree.branches if len(completion.ids) > 1]
        segments.append((len(tree.prompt) + read[0],) if len(read) == 1 else (len(tree.prompt), *read))
    width = max(map(len, ids))
    device = torch.device(device)

    def padded(lists: Sequence[Sequence[int]]) -> Tensor:
        return placed([[*row, *[0] * (width - len(row))] for row in lists], device)

    return Layout(
        input_ids_RT=padded(ids),
        position_ids_RT=padded(positions),
        segments=Segments(tuple(segments), device) if packed else None,
        places_N=placed([row * width + column for row, column in places], device),
        targets_N=placed(targets, device),
        slots=tuple(slots),
        lengths=tuple(lengths),
        num_tokens=sum(map(len, ids)),
    )
