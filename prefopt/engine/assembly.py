"""From the log-probs of completions to the batch a loss reads, and which completions go where.

Data rows keep their shape; only indices change. Pairs split into labels and rankings expanded into pairs read the
same log-probs, so nothing is computed twice.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import torch
from torch import Tensor

from prefopt.batch import PreferenceBatch, RowKind, Tokens
from prefopt.data.row import Completion, Row
from prefopt.data.trees import Tree, grow
from prefopt.engine.logps import TokenLogps
from prefopt.engine.transfer import placed
from prefopt.errors import DataError
from prefopt.loss import listed
from prefopt.weighted import Objective


def reading(kind: RowKind, loss: Objective) -> RowKind:
    """As which kind a loss reads rows of `kind`: as they are, rankings expanded to pairs, or pairs split to labels.

    Raises:
        DataError: the loss can read them in no way.
    """
    accepted = set(loss.needs.rows)
    if kind in accepted:
        return kind
    # A loss that also reads demonstrations wants one good completion, not every pair of a ranking.
    if kind == "rankings" and "pairs" in accepted and "demonstrations" not in accepted:
        return "pairs"
    if kind == "pairs" and "labels" in accepted:
        return "labels"
    raise DataError(f"loss {loss.name} reads {listed(accepted)}; these rows are {kind}")


@dataclass(frozen=True)
class Assembly:
    """The rows of one optimiser batch, their completions numbered as slots.

    Attributes:
        rows: data rows as read.
        slots: (prompt, completion) of every slot.
        kind: the kind of batch the loss reads.
        owners: the data row of each loss row.
        sides: name -> slot of each loss row on that side.
        desirable: the label of each loss row, where the loss reads labels.
        preferred: (better slot, worse slot) of every pair in the data, whatever the loss reads.
        starts: the first slot of each data row.
    """

    rows: tuple[Row, ...]
    slots: tuple[tuple[tuple[int, ...], Completion], ...]
    kind: RowKind
    owners: tuple[int, ...]
    sides: Mapping[str, tuple[int, ...]]
    desirable: tuple[bool, ...]
    preferred: tuple[tuple[int, int], ...]
    starts: tuple[int, ...]

    @classmethod
    def of(cls, rows: Sequence[Row], loss: Objective) -> Assembly:
        """Number the completions of the rows and see who reads which."""
        kind = reading(rows[0].kind, loss)
        slots: list[tuple[tuple[int, ...], Completion]] = []
        owners: list[int] = []
        sides: dict[str, list[int]] = {}
        desirable: list[bool] = []
        preferred: list[tuple[int, int]] = []
        starts: list[int] = []
        for owner, row in enumerate(rows):
            first = len(slots)
            starts.append(first)
            own = range(first, first + len(row.completions))
            slots += [(row.prompt, completion) for completion in row.completions]
            pairs = _pairs(row, first)
            preferred += pairs
            if kind == "pairs":
                for chosen, rejected in pairs:
                    sides.setdefault("chosen", []).append(chosen)
                    sides.setdefault("rejected", []).append(rejected)
                owners += [owner] * len(pairs)
            elif kind == "labels":
                sides.setdefault("completions", []).extend(own)
                desirable += [True, False] if row.kind == "pairs" else [bool(row.desirable)]
                owners += [owner] * len(own)
                if loss.needs.mismatched:
                    other = range(len(slots), len(slots) + len(row.mismatched))
                    slots += [(row.prompt, completion) for completion in row.mismatched]
                    sides.setdefault("mismatched", []).extend(other)
            elif kind == "demonstrations":
                sides.setdefault("chosen", []).extend(own)
                owners.append(owner)
            else:
                raise DataError(f"no loss of this version reads {kind} as they are")
        return cls(
            rows=tuple(rows),
            slots=tuple(slots),
            kind=kind,
            owners=tuple(owners),
            sides={name: tuple(found) for name, found in sides.items()},
            desirable=tuple(desirable),
            preferred=tuple(preferred),
            starts=tuple(starts),
        )

    def trees(self) -> list[Tree]:
        """The trees of all slots."""
        counts = [end - start for start, end in pairwise([*self.starts, len(self.slots)])]
        return grow(self.slots, [row for row, count in enumerate(counts) for _ in range(count)])

    def owner_of(self, pair: tuple[int, int]) -> int:
        """The data row that a pair of slots belongs to."""
        return bisect_right(self.starts, pair[0]) - 1

    def names(self, rows: Iterable[int]) -> str:
        """The first few of these data rows by name, for a message."""
        names = [self.rows[row].name for row in dict.fromkeys(rows)]
        return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

    def within(self, slots: Iterable[int]) -> list[int]:
        """The loss rows all of whose slots are among these."""
        there = set(slots)
        return [row for row in range(len(self.owners)) if all(side[row] in there for side in self.sides.values())]

    def batch(
        self,
        policy: Mapping[int, Tensor] | TokenLogps,
        reference: Mapping[int, Tensor] | TokenLogps | None,
        loss: Objective,
        state: Mapping[str, Tensor] | None = None,
        loss_rows: Sequence[int] | None = None,
    ) -> PreferenceBatch:
        """The batch that the loss reads.

        Args:
            policy: the token log-probs of every slot, or of those that `loss_rows` touch.
            reference: the same under the reference, or None.
            loss: what it will be given to: says whether per-token values are wanted.
            state: the loss's state.
            loss_rows: the loss rows to take; absent: all.
        """
        taken = range(len(self.owners)) if loss_rows is None else loss_rows
        policy = _by_slot(policy)
        reference = None if reference is None else _by_slot(reference)

        def side(name: str) -> tuple[TokenLogps, TokenLogps | None]:
            chosen = [self.sides[name][row] for row in taken]
            return _take(policy, chosen), None if reference is None else _take(reference, chosen)

        sides = {name: side(name) for name in self.sides}
        first = next(iter(sides.values()))[0].values
        weights = placed([self.rows[self.owners[row]].weight for row in taken], first.device, first.dtype)

        def lengths(name: str) -> Tensor:
            return placed(sides[name][0].lengths, first.device)

        def summed(name: str) -> tuple[Tensor, Tensor | None]:
            own, other = sides[name]
            return own.sums, None if other is None else other.sums

        def tokens(name: str) -> Tokens | None:
            own, other = sides[name]
            if not loss.needs.tokens:
                return None
            return Tokens(own.values, own.offsets, None if other is None else other.values)

        if self.kind == "demonstrations":
            return PreferenceBatch.from_demonstrations(
                policy=summed("chosen")[0],
                lengths=lengths("chosen"),
                tokens=tokens("chosen"),
                weights=weights,
                state=state,
            )
        if self.kind == "labels":
            own, other = summed("completions")
            mismatched = summed("mismatched") if "mismatched" in sides else (None, None)
            return PreferenceBatch.from_labels(
                policy=own,
                reference=other,
                lengths=lengths("completions"),
                desirable=placed([self.desirable[row] for row in taken], first.device),
                mismatched_policy=mismatched[0],
                mismatched_reference=mismatched[1],
                mismatched_lengths=lengths("mismatched") if "mismatched" in sides else None,
                tokens=tokens("completions"),
                weights=weights,
                state=state,
            )
        policy_chosen, reference_chosen = summed("chosen")
        policy_rejected, reference_rejected = summed("rejected")
        scores = self._scores(taken)
        return PreferenceBatch.from_pairs(
            policy_chosen=policy_chosen,
            policy_rejected=policy_rejected,
            reference_chosen=reference_chosen,
            reference_rejected=reference_rejected,
            chosen_lengths=lengths("chosen"),
            rejected_lengths=lengths("rejected"),
            chosen_scores=None if scores is None else scores[0].to(first),
            rejected_scores=None if scores is None else scores[1].to(first),
            chosen_tokens=tokens("chosen"),
            rejected_tokens=tokens("rejected"),
            weights=weights,
            state=state,
        )

    def _scores(self, taken: Iterable[int]) -> Tensor | None:
        """[2, B] scores of chosen and rejected, or None when a completion has none."""
        found = [[self.slots[self.sides[name][row]][1].score for row in taken] for name in ("chosen", "rejected")]
        if any(score is None for side in found for score in side):
            return None
        return torch.tensor(found, dtype=torch.float64)


def _pairs(row: Row, first: int) -> list[tuple[int, int]]:
    """(better, worse) slots of a row whose first completion has slot `first`; equal scores make no pair."""
    if row.kind == "pairs":
        return [(first, first + 1)]
    if row.kind != "rankings":
        return []
    scores = [-math.inf if completion.score is None else completion.score for completion in row.completions]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return [(first + i, first + j) for i, j in combinations(order, 2) if scores[i] != scores[j]]


def _by_slot(logps: Mapping[int, Tensor] | TokenLogps) -> Mapping[int, Tensor]:
    return dict(enumerate(logps.split())) if isinstance(logps, TokenLogps) else logps


def _take(logps: Mapping[int, Tensor], slots: Sequence[int]) -> TokenLogps:
    pieces = [logps[slot] for slot in slots]
    return TokenLogps(torch.cat(pieces), tuple(len(piece) for piece in pieces))
