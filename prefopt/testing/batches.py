"""Random hyper-parameters and random batches for any loss, made from what it declares.

Every number is a multiple of a power of two, so that a batch prints as it is, casts without rounding (but for
bfloat16), and shrinks to something that can be read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_origin

import torch
from hypothesis import reject
from hypothesis import strategies as st
from torch import Tensor

from prefopt.batch import RowKind
from prefopt.draws import Draws
from prefopt.errors import ConfigError
from prefopt.loss import Loss, Needs
from prefopt.testing.case import Case

_GRID = 64  # numbers are multiples of 1 / 64 nat
# What tells rows apart: less than 1 / 64, so that no two rows tie in a log-ratio or a gap, whatever was drawn.
_OWN = {"policy_chosen": 2.0**-9, "policy_rejected": 2.0**-12, "policy": 2.0**-9, "slot": 2.0**-11}


@dataclass(frozen=True)
class Scale:
    """How wide the draws are.

    Attributes:
        mean: largest |log-prob per token|, nats.
        log_ratio: largest |log-ratio| of a completion (of a token, where there are token log-probs), nats.
        length: largest number of scored tokens, of a completion whose token log-probs are drawn at most 4.
    """

    mean: int
    log_ratio: int
    length: int


MODERATE = Scale(mean=4, log_ratio=8, length=12)
WIDE = Scale(mean=4, log_ratio=2000, length=512)


def options(loss: type[Loss]) -> list[dict[str, Any]]:
    """Every setting of the loss's booleans and `Literal`s."""
    choices = {name: _choices(info.annotation) for name, info in loss.model_fields.items()}
    finite = {name: found for name, found in choices.items() if found}
    return [dict(zip(finite, values, strict=True)) for values in itertools.product(*finite.values())]


@st.composite
def losses(draw: st.DrawFn, loss: type[Loss], fixed: Mapping[str, Any] | None = None) -> Loss:
    """An instance of the loss: each hyper-parameter at its default, at an end of its range, or between.

    Numbers stay in the range worth searching (`tune`) where one is declared. What a constraint between several
    hyper-parameters refuses is drawn again.

    Args:
        draw: given by hypothesis.
        loss: the class.
        fixed: hyper-parameters that are not drawn.
    """
    values = dict(fixed or {})
    for name, choices in _hyperparameters(loss).items():
        if name not in values:
            values[name] = draw(choices, label=name)
    try:
        return loss(**values)
    except ConfigError:
        reject()


@st.composite
def cases(
    draw: st.DrawFn,
    loss: type[Loss] | Loss,
    *,
    kind: RowKind | None = None,
    fixed: Mapping[str, Any] | None = None,
    needs: Needs | None = None,
    scale: Scale = MODERATE,
    min_rows: int = 1,
    num_completions: int | None = None,
    carried: bool = True,
) -> Case:
    """A loss with a batch of 1 to 4 rows in float64 that holds what the loss declares to read, and nothing else.

    Scores are positive and never tie within a row.

    Args:
        draw: given by hypothesis.
        loss: the class, or an instance whose hyper-parameters stand.
        kind: the kind of rows; None: any the loss accepts.
        fixed: hyper-parameters that are not drawn.
        needs: what to fill in; None: what the loss declares.
        scale: how wide the log-probs are.
        min_rows: the fewest rows.
        num_completions: K of rankings, all present; None: 2 to 4, some absent.
        carried: whether a loss with state may also get the state that another batch left behind.
    """
    instance = loss if isinstance(loss, Loss) else draw(losses(loss, fixed))
    wanted = needs or instance.needs
    rows = draw(st.sampled_from(sorted(instance.needs.rows)), label="kind") if kind is None else kind
    num_rows = draw(st.integers(min_rows, max(4, min_rows)), label="rows")
    drawn = _Draw(draw, num_rows, wanted, scale)
    tensors = drawn.rankings(num_completions) if rows == "rankings" else getattr(drawn, rows)()
    tensors |= drawn.sometimes("weights", num_rows)
    case = Case(instance, rows, tensors, drawn.row_draws())
    if carried and instance.needs.state and draw(st.booleans(), label="carried"):
        before = draw(cases(instance, kind=rows, needs=needs, scale=scale, carried=False), label="before")
        case = replace(case, state={name: value.detach() for name, value in before.output().state.items()})
    return case


@dataclass(frozen=True)
class _Draw:
    """The parts of a batch, drawn one after the other."""

    draw: st.DrawFn
    num_rows: int
    needs: Needs
    scale: Scale

    @property
    def tokenwise(self) -> bool:
        return self.needs.tokens or self.needs.distribution is not None

    def integers(self, count: int, low: int, high: int) -> list[int]:
        return self.draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    def numbers(self, count: int, low: float, high: float, grid: int = 8) -> Tensor:
        drawn = self.integers(count, round(low * grid), round(high * grid))
        return torch.tensor(drawn, dtype=torch.float64) / grid

    def sometimes(self, name: str, count: int) -> dict[str, Tensor]:
        """Weights, or none."""
        return {name: self.numbers(count, 1 / 8, 4)} if self.draw(st.booleans(), label=name) else {}

    def row_draws(self) -> Draws:
        start = self.draw(st.integers(0, 99), label="first row id")
        ids = tuple(start + 3 * row % 5 for row in range(self.num_rows)) if self.num_rows < 5 else None
        return Draws(ids or tuple(range(start, start + self.num_rows)), self.draw(st.integers(0, 3)), step=start % 7)

    def lengths(self, count: int) -> list[int]:
        return self.integers(count, 1, min(self.scale.length, 4) if self.tokenwise else self.scale.length)

    def logps(self, lengths: list[int], own: list[float]) -> dict[str, Tensor]:
        """`policy` and, where declared, `reference` and `tokens` of completions that long; none where it is 0.

        Args:
            lengths: scored tokens of each completion.
            own: what is taken from each completion's log-prob to tell it from all others, nats.
        """
        if self.tokenwise:
            return self._token_logps(lengths, own)
        policy = [self._units(-self.scale.mean * _GRID * n, -1) if n else 0 for n in lengths]
        return self._sums(policy, own, lengths)

    def _sums(self, policy: list[int], own: list[float], lengths: list[int]) -> dict[str, Tensor]:
        shift = torch.tensor(own, dtype=torch.float64)
        found = {"policy": torch.tensor(policy, dtype=torch.float64) / _GRID - shift}
        if self.needs.reference:
            reference = [self._reference(units) if n else 0 for units, n in zip(policy, lengths, strict=True)]
            found["reference"] = torch.tensor(reference, dtype=torch.float64) / _GRID
        return found

    def _reference(self, policy: int) -> int:
        widest = self.scale.log_ratio * _GRID
        return policy - self._units(max(-widest, policy), widest)

    def _units(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def _token_logps(self, lengths: list[int], own: list[float]) -> dict[str, Tensor]:
        """The sums are those of the tokens; one completion's own share lies in its first token."""
        count = sum(lengths)
        first = [sum(lengths[:index]) for index, n in enumerate(lengths) if n]
        shift = torch.zeros(count, dtype=torch.float64)
        shift[first] = torch.tensor([share for share, n in zip(own, lengths, strict=True) if n], dtype=torch.float64)
        tokens = self._sums(self.integers(count, -self.scale.mean * _GRID, -1), shift.tolist(), [1] * count)
        tokens["offsets"] = torch.tensor([0, *lengths]).cumsum(0)
        if self.needs.distribution:
            tokens["log_sum_squares"] = self.numbers(count, -4, 0, _GRID)
        if self.needs.distribution == "both":
            tokens["reference_kl"] = self.numbers(count, 1 / _GRID, 4, _GRID)
        spans = list(itertools.pairwise(tokens["offsets"].tolist()))
        sums: dict[str, Tensor] = {
            name: torch.stack([tokens[name][start:end].sum() for start, end in spans])
            for name in ("policy", "reference")
            if name in tokens
        }
        return {**sums, **{f"tokens.{name}": tensor for name, tensor in tokens.items()}}

    def _own(self, what: str) -> list[float]:
        return [row * _OWN[what] for row in range(self.num_rows)]

    def pairs(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for side in ("chosen", "rejected"):
            lengths = self.lengths(self.num_rows)
            found[f"{side}_lengths"] = torch.tensor(lengths)
            for name, tensor in self.logps(lengths, self._own(f"policy_{side}")).items():
                found[f"{side}_{name}" if "." in name else f"{name}_{side}"] = tensor
        if self.needs.scores:
            found["rejected_scores"] = self.numbers(self.num_rows, 1 / 8, 8)
            found["chosen_scores"] = found["rejected_scores"] + self.numbers(self.num_rows, 1 / 8, 4)
        return found

    def labels(self) -> dict[str, Tensor]:
        lengths = self.lengths(self.num_rows)
        found = {"lengths": torch.tensor(lengths), **self.logps(lengths, self._own("policy"))}
        found["desirable"] = torch.tensor([bool(value) for value in self.integers(self.num_rows, 0, 1)])
        if self.needs.mismatched:
            lengths = self.lengths(self.num_rows)
            plain = replace(self, needs=replace(self.needs, tokens=False, distribution=None, reference=True))
            others = plain.logps(lengths, [0.0] * self.num_rows)
            found |= {f"mismatched_{name}": tensor for name, tensor in others.items()}
            found["mismatched_lengths"] = torch.tensor(lengths)
        return found | self.sometimes("undesirable_weight", self.num_rows)

    def rankings(self, num_completions: int | None) -> dict[str, Tensor]:
        slots = num_completions or self._units(2, 4)
        count = self.num_rows * slots
        present = [True] * count
        if num_completions is None and slots > 2:
            # Each row keeps the two slots that its number names; any other may be absent.
            absent = self.integers(count, 0, 2)
            present = [
                not absent[place] or slot in (row % slots, (row + 1) % slots)
                for place, (row, slot) in enumerate(itertools.product(range(self.num_rows), range(slots)))
            ]
        drawn = zip(self.lengths(count), present, strict=True)
        lengths = [length if there else 0 for length, there in drawn]
        own = [place * _OWN["slot"] if lengths[place] else 0.0 for place in range(count)]
        found = self.logps(lengths, own)
        order = st.permutations(range(slots))
        scores = [self.draw(order) for _ in range(self.num_rows)]
        step = self.numbers(self.num_rows, 1 / 8, 2)
        shaped = {name: tensor if "." in name else tensor.view(-1, slots) for name, tensor in found.items()}
        return {
            **shaped,
            "lengths": torch.tensor(lengths).view(-1, slots),
            "scores": (torch.tensor(scores, dtype=torch.float64) + 1) * step[:, None],
        }

    def demonstrations(self) -> dict[str, Tensor]:
        lengths = self.lengths(self.num_rows)
        found = replace(self, needs=replace(self.needs, reference=False)).logps(lengths, self._own("policy"))
        return {"lengths": torch.tensor(lengths), **found}


def _choices(annotation: Any) -> tuple[Any, ...]:
    """All values of a boolean or a `Literal`; empty for anything else."""
    if annotation is bool:
        return (False, True)
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _hyperparameters(loss: type[Loss]) -> dict[str, st.SearchStrategy[Any]]:
    schema = loss.model_json_schema().get("properties", {})
    found = {}
    for name, info in loss.model_fields.items():
        choices = _choices(info.annotation)
        # The default comes first: it is what a failure shrinks to.
        found[name] = st.just(info.default) | (
            st.sampled_from(choices) if choices else _numbers(schema[name], info.default)
        )
    return found


def _numbers(schema: Mapping[str, Any], default: Any) -> st.SearchStrategy[Any]:
    """Numbers of the declared range: its own ends where they belong to it, and the range worth searching."""
    parts = [part for part in schema.get("anyOf", [schema]) if part.get("type") in ("number", "integer")]
    if not parts:
        return st.just(default)
    (part, *_) = parts
    ends = [part[key] for key in ("minimum", "maximum") if key in part]
    low = part.get("minimum", part.get("exclusiveMinimum", -math.inf))
    high = part.get("maximum", part.get("exclusiveMaximum", math.inf))
    centre = default if isinstance(default, int | float) else 1.0
    narrow = schema.get("tune") or (max(low, min(centre / 10, centre - 1)), min(high, max(centre * 10, centre + 1)))
    start, end = _inside(narrow[0], low, high, part), _inside(narrow[1], low, high, part)
    if part["type"] == "integer":
        return st.sampled_from(ends or [centre]) | st.integers(math.ceil(start), math.floor(end))
    between = st.integers(0, 64).map(lambda place: _between(start, end, place / 64))
    return st.sampled_from([float(end) for end in ends]) | between if ends else between


def _inside(value: float, low: float, high: float, part: Mapping[str, Any]) -> float:
    """The value, moved off an end that does not belong to the range."""
    width = min(high, value + 1) - max(low, value - 1)
    if "exclusiveMinimum" in part and value <= low:
        return low + width / 64
    return high - width / 64 if "exclusiveMaximum" in part and value >= high else value


def _between(start: float, end: float, share: float) -> float:
    """On a log scale where it is positive, in three digits."""
    value = start * (end / start) ** share if start > 0 else start + (end - start) * share
    return min(max(float(f"{value:.3g}"), start), end)
