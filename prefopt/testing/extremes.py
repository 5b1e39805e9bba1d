"""The ends of what a loss can meet: log-probs from 0 to -1e4, log-ratios to +-1e4, gaps to +-2e4."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from prefopt.batch import RowKind
from prefopt.errors import ConfigError
from prefopt.loss import Loss
from prefopt.testing.batches import options
from prefopt.testing.case import Case

# Log-probs of 0 in both signs: log_softmax gives either for a certain token.
LOGPS = (0.0, -0.0, -1e-3, -30.0, -300.0, -1e4)
_NUM_ROWS = 6**4  # every combination of four log-probs
_NUM_BATCHES = 24  # of a coupled loss, four rows each


def extreme_losses(loss: type[Loss]) -> Iterator[Loss]:
    """Every setting of the options, with the numbers at their defaults and at both ends of what is worth searching."""
    schema = loss.model_json_schema().get("properties", {})
    for chosen in options(loss):
        for end in (None, 0, 1):
            numbers = {
                name: tune[end] for name, part in schema.items() if end is not None and (tune := part.get("tune"))
            }
            if end is None or numbers:
                try:
                    yield loss(**chosen, **numbers)
                except ConfigError:  # a constraint between several hyper-parameters
                    continue


def extreme_cases(loss: Loss, dtype: torch.dtype) -> Iterator[Case]:
    """Batches of combinations of extreme log-probs, for short, long and uneven completions.

    A loss whose rows see each other gets many small batches, any other one large batch of each kind.
    """
    tokenwise = loss.needs.tokens or loss.needs.distribution is not None
    longest = 3 if tokenwise else 512
    for kind in sorted(loss.needs.rows):
        for lengths in ((1, 1), (longest, longest), (1, longest)):
            case = _Grid(loss, kind, dtype, lengths, tokenwise).case()
            if not loss.needs.coupled:
                yield case
                continue
            order = torch.randperm(len(case), generator=_generator()).tolist()
            for start in range(0, min(len(order), 4 * _NUM_BATCHES), 4):
                yield case.rows(order[start : start + 4])


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@dataclass(frozen=True)
class _Grid:
    """One large batch of a kind; every row another combination."""

    loss: Loss
    kind: RowKind
    dtype: torch.dtype
    lengths: tuple[int, int]
    tokenwise: bool

    def case(self) -> Case:
        names = ["policy", "reference"] if self.loss.needs.reference and self.kind != "demonstrations" else ["policy"]
        slots = {"pairs": 2, "rankings": 3}.get(self.kind, 1)
        combinations = list(itertools.product(range(len(LOGPS)), repeat=len(names) * slots))
        generator = _generator()
        taken = torch.randperm(len(combinations), generator=generator)[:_NUM_ROWS].tolist()
        grid = torch.tensor(LOGPS, dtype=self.dtype)[torch.tensor([combinations[row] for row in taken])]
        columns = dict(zip(itertools.product(names, range(slots)), grid.T, strict=True))
        pick = _Pick(self.dtype, len(taken), generator)
        tensors: dict[str, Tensor] = {}
        if self.kind == "pairs":
            for slot, side in enumerate(("chosen", "rejected")):
                own = self._completions({name: columns[name, slot] for name in names}, self.lengths[slot], pick)
                for name, tensor in own.items():
                    own_name = f"{name}_{side}" if name in ("policy", "reference") else f"{side}_{name}"
                    tensors[own_name] = tensor
            if self.loss.needs.scores:
                tensors |= {"rejected_scores": pick(1e-3), "chosen_scores": pick(2e-3, 1.0, 1e4)}
        else:
            flat = {name: torch.stack([columns[name, slot] for slot in range(slots)], 1).flatten() for name in names}
            tensors |= self._completions(flat, self.lengths[1], pick)
        if self.kind == "rankings":
            order = torch.stack([torch.randperm(slots, generator=generator) for _ in taken]).to(self.dtype)
            tensors["scores"] = (order + 1) * pick(1e-3, 1.0, 1e3)[:, None]
            tensors = {name: t if "." in name or t.dim() == 2 else t.view(-1, slots) for name, t in tensors.items()}
        if self.kind == "labels":
            tensors["desirable"] = pick(0.0, 1.0).bool()
            if self.loss.needs.mismatched:
                tensors |= {f"mismatched_{name}": pick(*LOGPS) for name in ("policy", "reference")}
        return Case(self.loss, self.kind, tensors)

    def _completions(self, sums: dict[str, Tensor], length: int, pick: _Pick) -> dict[str, Tensor]:
        count = len(sums["policy"])
        found = {**sums, "lengths": torch.full((count,), length)}
        if not self.tokenwise:
            return found
        # Half of the completions spread their log-prob evenly, in the others one token has it all.
        even = torch.full((length,), 1 / length, dtype=self.dtype)
        one = torch.eye(1, length, dtype=self.dtype)[0]
        shares = torch.where((torch.arange(count) % 2 == 0)[:, None], even, one)
        found |= {f"tokens.{name}": (total[:, None] * shares).flatten() for name, total in sums.items()}
        found["tokens.offsets"] = torch.arange(count + 1) * length
        if self.loss.needs.distribution:
            found["tokens.log_sum_squares"] = pick.many(count * length, 0.0, -1e-3, -12.0)
        if self.loss.needs.distribution == "both":
            found["tokens.reference_kl"] = pick.many(count * length, 0.0, 1e-3, 30.0, 1e4)
        return found


@dataclass(frozen=True)
class _Pick:
    """One of some numbers for every row, at random but always the same."""

    dtype: torch.dtype
    num_rows: int
    generator: torch.Generator

    def __call__(self, *values: float) -> Tensor:
        return self.many(self.num_rows, *values)

    def many(self, count: int, *values: float) -> Tensor:
        places = torch.randint(len(values), (count,), generator=self.generator)
        return torch.tensor(values, dtype=self.dtype)[places]


def misfits(true: Tensor, found: Tensor) -> Tensor:
    """Where `found` is not what the true number becomes in its dtype: finite where it fits, else that infinity.

    Args:
        true: in float64.
        found: the same in another dtype.
    """
    largest = torch.finfo(found.dtype).max
    size, infinity = true.abs(), torch.copysign(torch.tensor(torch.inf, dtype=true.dtype), true)
    right = torch.where(size <= largest / 4, found.isfinite(), found == infinity)
    near = (size > largest / 4) & (size <= largest * 4)  # rounding decides
    return ~torch.where(near, found != -infinity, right) | true.isnan() | found.isnan()
