"""What a world's annotators say: rows of the kinds that losses read, as indices of prompts and completions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from prefopt.batch import RowKind
from prefopt.errors import DataError
from prefopt.loss import listed


@dataclass(frozen=True)
class Rows:
    """B rows of one kind.

    Attributes:
        kind: `pairs`: completions are (chosen, rejected). `labels`: one completion and `desirable`. `rankings`: K
            completions, best first. `demonstrations`: one completion.
        prompts: [B] int64.
        completions: [B, K] int64 indices into the tree's completions; K is 1 for labels and demonstrations.
        scores: [B, K] ratings, falling from first to last, or None.
        desirable: [B] bool labels, or None.
        weights: [B], > 0, or None: every row counts once.
    """

    kind: RowKind
    prompts: Tensor
    completions: Tensor
    scores: Tensor | None = None
    desirable: Tensor | None = None
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, index: Tensor) -> Rows:
        """The rows at `index`."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)[1:]}
        return replace(self, **{name: tensor[index] for name, tensor in tensors.items() if tensor is not None})

    def read_as(self, accepted: Iterable[RowKind]) -> Rows:
        """The rows as one of the kinds in `accepted`.

        They stay as they are where they can. Otherwise a ranking becomes all its pairs and a pair a ranking of two; a
        pair splits into two labels, or gives its chosen completion as a demonstration; and of labels the desirable
        completions of a prompt are paired with its undesirable ones, in the order of the rows, while there are both.

        Raises:
            DataError: nothing of `accepted` can be made of them.
        """
        accepted = set(accepted)
        if self.kind in accepted:
            return self
        if self.kind != "pairs":
            return self.as_pairs().read_as(accepted)
        if "labels" in accepted:
            return self._split()
        if "demonstrations" in accepted:
            return Rows("demonstrations", self.prompts, self.completions[:, :1], weights=self.weights)
        if "rankings" in accepted:
            return replace(self, kind="rankings")
        raise DataError(f"rows of {self.kind} cannot be read as {listed(accepted)}")

    def as_pairs(self) -> Rows:
        """The rows as pairs.

        Raises:
            DataError: they are demonstrations, or labels of which no prompt has both.
        """
        if self.kind == "pairs":
            return self
        if self.kind == "rankings":
            return self._expanded()
        if self.kind == "labels":
            return self._matched()
        raise DataError("demonstrations say nothing about a worse completion, so they make no pairs")

    def _expanded(self) -> Rows:
        places = torch.tensor(list(itertools.combinations(range(self.completions.shape[1]), 2)))
        per_row = len(places)
        return Rows(
            "pairs",
            self.prompts.repeat_interleave(per_row),
            self.completions[:, places].flatten(0, 1),
            None if self.scores is None else self.scores[:, places].flatten(0, 1),
            weights=None if self.weights is None else self.weights.repeat_interleave(per_row),
        )

    def _matched(self) -> Rows:
        assert self.desirable is not None
        own = self.completions[:, 0].numpy()
        prompts, desirable = self.prompts.numpy(), self.desirable.numpy()
        found: list[tuple[int, int, int]] = []
        for prompt in np.unique(prompts):
            good, bad = own[(prompts == prompt) & desirable], own[(prompts == prompt) & ~desirable]
            found += [(int(prompt), int(chosen), int(rejected)) for chosen, rejected in zip(good, bad, strict=False)]
        if not found:
            raise DataError("no prompt has a desirable and an undesirable completion, so the labels make no pair")
        table = torch.tensor(found)
        # A label is a rating of two values.
        scores = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(len(table), 2)
        return Rows("pairs", table[:, 0], table[:, 1:], scores)

    def _split(self) -> Rows:
        return Rows(
            "labels",
            self.prompts.repeat_interleave(2),
            self.completions.flatten()[:, None],
            desirable=torch.tensor([True, False]).repeat(len(self)),
            weights=None if self.weights is None else self.weights.repeat_interleave(2),
        )
