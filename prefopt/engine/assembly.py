"""From the log-probs of completions to the batch a loss reads, and which completions go where.

Data rows keep their shape; only indices change. Pairs split into labels and rankings expanded into pairs read the
same log-probs, so nothing is computed twice.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any

import torch
from torch import Tensor

from prefopt.batch import Completions, PreferenceBatch, RowKind, Tokens
from prefopt.data.row import Completion, Row
from prefopt.data.trees import Tree, grow
from prefopt.draws import Draws
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
        members: the slots of each loss row: (chosen, rejected); (own,) or (own, mismatched) of a label; (chosen,) of a
            demonstration; all completions of a ranking.
        desirable: the label of each loss row, where the loss reads labels.
        preferred: (better slot, worse slot) of every pair in the data, whatever the loss reads.
        starts: the first slot of each data row.
        draws: random numbers for the loss rows.
    """

    rows: tuple[Row, ...]
    slots: tuple[tuple[tuple[int, ...], Completion], ...]
    kind: RowKind
    owners: tuple[int, ...]
    members: tuple[tuple[int, ...], ...]
    desirable: tuple[bool, ...]
    preferred: tuple[tuple[int, int], ...]
    starts: tuple[int, ...]
    draws: Draws

    @classmethod
    def of(cls, rows: Sequence[Row], loss: Objective, *, seed: int = 0, step: int = 0) -> Assembly:
        """Number the completions of the rows and see who reads which; seed and step are those of random draws."""
        kind = reading(rows[0].kind, loss)
        slots: list[tuple[tuple[int, ...], Completion]] = []
        owners: list[int] = []
        members: list[tuple[int, ...]] = []
        desirable: list[bool] = []
        preferred: list[tuple[int, int]] = []
        starts: list[int] = []
        row_ids: list[int] = []
        for owner, row in enumerate(rows):
            first = len(slots)
            starts.append(first)
            own = range(first, first + len(row.completions))
            slots += [(row.prompt, completion) for completion in row.completions]
            pairs = _pairs(row, first)
            preferred += pairs
            found: list[tuple[int, ...]]
            if kind == "pairs":
                found = [*pairs]
            elif kind == "rankings":
                found = [tuple(own)]
            else:
                found = [(slot,) for slot in own]
            if kind == "labels":
                desirable += [True, False] if row.kind == "pairs" else [bool(row.desirable)]
                if loss.needs.mismatched:
                    other = range(len(slots), len(slots) + len(row.mismatched))
                    slots += [(row.prompt, completion) for completion in row.mismatched]
                    found = list(zip(own, other, strict=True))
            members += found
            owners += [owner] * len(found)
            row_ids += [row.number << 16 | index for index in range(len(found))]
        return cls(
            rows=tuple(rows),
            slots=tuple(slots),
            kind=kind,
            owners=tuple(owners),
            members=tuple(members),
            desirable=tuple(desirable),
            preferred=tuple(preferred),
            starts=tuple(starts),
            draws=Draws(tuple(row_ids), seed, step),
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
        return [row for row, own in enumerate(self.members) if there.issuperset(own)]

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
            reference: the same under the reference; None: what `policy` holds of it.
            loss: what it will be given to: says whether per-token values are wanted.
            state: the loss's state.
            loss_rows: the loss rows to take; absent: all.
        """
        taken = list(range(len(self.owners)) if loss_rows is None else loss_rows)
        policy = _by_slot(policy)
        reference = None if reference is None else _by_slot(reference)
        with_tokens = loss.needs.tokens or loss.needs.distribution is not None

        def side(slots: Sequence[int]) -> Completions:
            return completions(
                _take(policy, slots),
                None if reference is None else _take(reference, slots),
                with_tokens=with_tokens,
            )

        own = [self.members[row] for row in taken]
        rows = [self.rows[self.owners[row]] for row in taken]
        if self.kind == "rankings":
            return self._rankings(own, rows, side([slot for slots in own for slot in slots]), state, taken)
        sides = [side(column) for column in zip(*own, strict=True)]
        first = sides[0].policy
        shared: dict[str, Any] = {
            "weights": placed([row.weight for row in rows], first.device, first.dtype),
            "state": state,
            "draws": self._draws(taken),
        }
        if self.kind == "demonstrations":
            (chosen,) = sides
            return PreferenceBatch.from_demonstrations(
                policy=chosen.policy, lengths=chosen.lengths, tokens=chosen.tokens, **shared
            )
        if self.kind == "labels":
            labelled = sides[0]
            mismatched: dict[str, Any] = (
                {
                    "mismatched_policy": sides[1].policy,
                    "mismatched_reference": sides[1].reference,
                    "mismatched_lengths": sides[1].lengths,
                }
                if len(sides) > 1
                else {}
            )
            return PreferenceBatch.from_labels(
                policy=labelled.policy,
                reference=labelled.reference,
                lengths=labelled.lengths,
                desirable=placed([self.desirable[row] for row in taken], first.device),
                **mismatched,
                undesirable_weight=placed([row.undesirable_weight for row in rows], first.device, first.dtype),
                tokens=labelled.tokens,
                **shared,
            )
        chosen, rejected = sides
        scores = self._scores(own)
        return PreferenceBatch.from_pairs(
            policy_chosen=chosen.policy,
            policy_rejected=rejected.policy,
            reference_chosen=chosen.reference,
            reference_rejected=rejected.reference,
            chosen_lengths=chosen.lengths,
            rejected_lengths=rejected.lengths,
            chosen_scores=None if scores is None else scores[:, 0].to(first),
            rejected_scores=None if scores is None else scores[:, 1].to(first),
            chosen_tokens=chosen.tokens,
            rejected_tokens=rejected.tokens,
            **shared,
        )

    def stand_in(self, loss: Objective) -> PreferenceBatch:
        """The batch as it would be under models that choose evenly among three tokens, before any model is there."""
        lengths = tuple(completion.num_scored for _, completion in self.slots)
        even = torch.full((sum(lengths), 4 if loss.needs.reference else 3), -math.log(3), dtype=torch.float64)
        even[:, 2] = 0  # the reference chooses alike
        return self.batch(TokenLogps(even, lengths), None, loss)

    def _rankings(
        self,
        own: Sequence[tuple[int, ...]],
        rows: Sequence[Row],
        present: Completions,
        state: Mapping[str, Tensor] | None,
        taken: Sequence[int],
    ) -> PreferenceBatch:
        """Rankings side by side, the shorter ones filled up with absent slots."""
        width = max(map(len, own))
        there = placed([[place < len(slots) for place in range(width)] for slots in own], present.policy.device)

        def table(values: Tensor) -> Tensor:
            return values.new_zeros(there.shape).masked_scatter(there, values)

        lengths, tokens = table(present.lengths), present.tokens
        if tokens is not None:
            tokens = replace(tokens, offsets=torch.cat([tokens.offsets[:1], lengths.flatten().cumsum(0)]))
        scores = [self.slots[slot][1].score for slots in own for slot in slots]
        return PreferenceBatch.from_rankings(
            policy=table(present.policy),
            reference=None if present.reference is None else table(present.reference),
            lengths=lengths,
            scores=table(placed(scores, present.policy.device, present.policy.dtype)),
            tokens=tokens,
            weights=placed([row.weight for row in rows], present.policy.device, present.policy.dtype),
            state=state,
            draws=self._draws(taken),
        )

    def _draws(self, taken: Iterable[int]) -> Draws:
        return replace(self.draws, row_ids=tuple(self.draws.row_ids[row] for row in taken))

    def _scores(self, own: Iterable[tuple[int, ...]]) -> Tensor | None:
        """[B, 2] scores of chosen and rejected, or None when a completion has none."""
        found = [[self.slots[slot][1].score for slot in slots] for slots in own]
        if any(score is None for row in found for score in row):
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


def completions(policy: TokenLogps, reference: TokenLogps | None, *, with_tokens: bool) -> Completions:
    """Every slot of `policy` as a loss reads it; without `reference` it is what `policy` holds of it."""
    reference = policy.reference if reference is None else reference
    tokens = None
    if with_tokens:
        tokens = Tokens(
            policy.tokens,
            policy.offsets,
            reference=None if reference is None else reference.tokens,
            reference_kl=policy.reference_kl,
            log_sum_squares=policy.log_sum_squares,
        )
    return Completions(
        policy=policy.sums,
        lengths=placed(policy.lengths, policy.values.device),
        reference=None if reference is None else reference.sums,
        tokens=tokens,
    )
