"""The interface of a loss: what it declares, what it computes, and what it never does (reduce, mutate, load)."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

import pydantic
import torch
from pydantic_core import ErrorDetails
from torch import Tensor

from prefopt.batch import Completions, PreferenceBatch, RowKind
from prefopt.errors import ConfigError, PluginError, nearest

_EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Needs:
    """What a loss reads, declared so that a missing input is an error before any model loads.

    Attributes:
        rows: kinds of rows it accepts: "pairs", "labels", "rankings", "demonstrations".
        reference: reads reference log-probs.
        scores: reads the ratings of completions.
        tokens: reads per-token log-probs.
        distribution: "policy" reads the policy's next-token distribution, "both" the reference's too.
        mismatched: reads completions of other prompts.
        coupled: a row's value depends on other rows, so the loss must see the whole optimiser batch at once.
        state: carries state from one optimiser step to the next.
    """

    rows: Iterable[RowKind]
    reference: bool = False
    scores: bool = False
    tokens: bool = False
    distribution: Literal["policy", "both"] | None = None
    mismatched: bool = False
    coupled: bool = False
    state: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", frozenset(self.rows))


@dataclass(frozen=True)
class LossOutput:
    """What a loss returns for a batch of B rows.

    Attributes:
        losses: [B] one unweighted value per row, nats unless the loss says otherwise.
        terms: name -> (values [B], normaliser [B]). The engine adds, per term, sum of weight x values over sum
            of weight x normaliser. Unless the loss is coupled, a normaliser depends on lengths and labels only, never
            on log-probs. Empty: one term, normaliser 1.
        metrics: name -> [B] detached values.
        state: the state after this batch, for losses that carry one.
    """

    losses: Tensor
    terms: Mapping[str, tuple[Tensor, Tensor]] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    state: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    def all_terms(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """`terms`, or the one term that an output without any stands for."""
        return self.terms or {"loss": (self.losses, torch.ones_like(self.losses))}

    @classmethod
    def of(cls, values: Tensor | LossOutput) -> LossOutput:
        """What a loss's `values` returned, as an output."""
        return cls(values) if isinstance(values, Tensor) else values

    @classmethod
    def from_terms(cls, **terms: tuple[Tensor, Tensor]) -> LossOutput:
        """An output made of named terms; `losses` is the sum of their values."""
        losses = sum(values for values, _ in terms.values())
        assert isinstance(losses, Tensor)
        return cls(losses=losses, terms=terms)


@dataclass(frozen=True)
class Gradient:
    """d(sum of `losses`) / d(input), one entry per differentiable input; None where the loss does not read it.

    A loss that reads both a summed log-prob and the token log-probs it is the sum of counts them as two inputs.

    Attributes:
        policy_chosen: [B] (pairs, demonstrations).
        policy_rejected: [B] (pairs).
        policy: [N] for labels, [B, K] for rankings.
        chosen_tokens, rejected_tokens, tokens: [T] with respect to `Tokens.policy`.
        chosen_reference_kl, rejected_reference_kl, reference_kl: [T] with respect to `Tokens.reference_kl`.
    """

    policy_chosen: Tensor | None = None
    policy_rejected: Tensor | None = None
    policy: Tensor | None = None
    chosen_tokens: Tensor | None = None
    rejected_tokens: Tensor | None = None
    tokens: Tensor | None = None
    chosen_reference_kl: Tensor | None = None
    rejected_reference_kl: Tensor | None = None
    reference_kl: Tensor | None = None


@dataclass(frozen=True)
class Relation:
    """An identity between two losses, which the conformance kit holds them to: same losses, same gradients.

    Attributes:
        to: name of the other loss.
        where: this loss's hyper-parameters at which the identity holds.
        given: the other loss's hyper-parameters; one that both have and neither mapping names is the same in both.
        num_completions: for rankings: the number K at which they are the other loss's pairs; None: rows of one kind.
    """

    to: str
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    num_completions: int | None = None


def field(
    default: Any,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    tune: tuple[float, float] | None = None,
    description: str | None = None,
) -> Any:
    """A hyper-parameter: default, range, and the range worth searching (on a log scale where it is positive).

    Args:
        default: the paper's default.
        gt, ge, lt, le: the range of valid values; a number needs at least one bound.
        tune: the range a search draws from.
        description: one line for pages and schemas.
    """
    return pydantic.Field(
        default,
        gt=gt,
        ge=ge,
        lt=lt,
        le=le,
        allow_inf_nan=False,
        description=description,
        json_schema_extra={"tune": list(tune)} if tune else None,
    )


class Loss(pydantic.BaseModel):
    """A preference loss: an immutable value whose fields are its hyper-parameters.

    A subclass sets `name` and `needs`, declares its hyper-parameters with `prefopt.field`, and writes `values`,
    `gradient` (by hand) and `reward`. Calling the loss checks the batch and adds the metrics. `relations` are the
    identities it promises, `expected_failures` the checks of `prefopt.testing` it cannot pass, each with the reason.

    What a run is held against before it starts, where a loss declares it: `learning_rates`, the lowest and the highest
    that its authors trained whole models of billions of parameters with; and `on_length`, how it keeps length out of
    the reward, as the end of a sentence that begins with its name.

    Raises:
        ConfigError: a hyper-parameter is unknown, of the wrong type or out of its range.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, ignored_types=(Needs,))

    name: ClassVar[str]
    needs: ClassVar[Needs]
    relations: ClassVar[Sequence[Relation]] = ()
    expected_failures: ClassVar[Mapping[str, str]] = _EMPTY
    learning_rates: ClassVar[tuple[float, float] | None] = None
    on_length: ClassVar[str] = ""

    def __init__(self, **hyperparameters: Any) -> None:
        try:
            super().__init__(**hyperparameters)
        except pydantic.ValidationError as error:
            raise ConfigError(_explain(type(self), error.errors()[0])) from None

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        rates: Any = cls.learning_rates
        if rates is not None and not (isinstance(rates, tuple) and len(rates) == 2 and 0 < rates[0] <= rates[1]):
            raise PluginError(
                f"loss class {cls.__name__}: learning_rates = {rates!r}; it takes the lowest and the highest, as in "
                "(5e-7, 1e-6)"
            )
        for name, info in cls.model_fields.items():
            if name == "weight":
                raise PluginError(
                    f"loss class {cls.__name__}: a hyper-parameter 'weight' would be taken for the loss's own weight "
                    "in a list; choose another name"
                )
            if info.is_required():
                raise PluginError(
                    f"loss class {cls.__name__}: hyper-parameter {name!r} has no default; a loss can be named alone"
                )
            if _is_number(info.annotation) and not _range(info):
                kind = info.annotation.__name__ if isinstance(info.annotation, type) else info.annotation
                raise PluginError(
                    f"loss class {cls.__name__}: hyper-parameter {name!r} has no range; "
                    f"declare one, as in `{name}: {kind} = prefopt.field({info.default!r}, gt=0)`"
                )

    @abstractmethod
    def values(self, batch: PreferenceBatch) -> Tensor | LossOutput:
        """One value per row [B], or a `LossOutput` where there are terms, metrics or state to return."""
        raise NotImplementedError(f"{type(self).__name__} must define `values`")

    def gradient(self, batch: PreferenceBatch) -> Gradient:
        """The closed form of d(sum of losses) / d(policy log-probs), derived by hand."""
        raise NotImplementedError(f"{type(self).__name__} gives no closed form")

    @abstractmethod
    def reward(self, completions: Completions) -> Tensor:
        """The implicit reward of each completion [N], in the loss's own units."""
        raise NotImplementedError(f"{type(self).__name__} must define `reward`")

    def rewards(self, batch: PreferenceBatch) -> dict[str, Tensor]:
        """The implicit rewards of a batch as metrics: name -> [B]."""
        return {}

    def initial_state(self) -> Mapping[str, Tensor]:
        """The state before the first step; empty for losses without one."""
        return _EMPTY

    def __call__(self, batch: PreferenceBatch) -> LossOutput:
        """The loss of every row, with terms, detached metrics and the new state.

        Raises:
            ValueError: the batch is of a kind the loss does not accept, or lacks what it needs.
        """
        self._check(batch)
        if batch.state is None:
            batch = replace(batch, state=self.initial_state())
        output = LossOutput.of(self.values(batch))
        if not isinstance(output, LossOutput):
            raise PluginError(
                f"loss {self.name} returned a {type(output).__name__}; `values` returns a tensor of one value per row "
                "or a prefopt.LossOutput"
            )
        metrics = {**self.rewards(batch), **output.metrics}
        self._check_shapes(output, metrics, len(batch))
        return replace(output, metrics={name: value.detach() for name, value in metrics.items()})

    def _check_shapes(self, output: LossOutput, metrics: Mapping[str, Tensor], num_rows: int) -> None:
        found = {"losses": output.losses, **{f"metric {name!r}": value for name, value in metrics.items()}}
        for name, (values, normaliser) in output.terms.items():
            found |= {f"values of term {name!r}": values, f"normaliser of term {name!r}": normaliser}
        for name, tensor in found.items():
            if tensor.shape != (num_rows,):
                raise PluginError(
                    f"loss {self.name} returned {name} of shape {list(tensor.shape)} for a batch of {num_rows} rows; "
                    "a loss returns one value per row and never reduces"
                )

    def _check(self, batch: PreferenceBatch) -> None:
        needs = self.needs
        if batch.kind not in needs.rows:
            raise ValueError(f"loss {self.name} reads {listed(needs.rows)}; the batch holds {batch.kind}")
        for side, completions in batch.sides().items():
            if needs.reference and completions.reference is None:
                raise ValueError(f"loss {self.name} needs reference log-probs; {side!r} has none")
            if needs.scores and completions.scores is None:
                raise ValueError(f"loss {self.name} needs scores; {side!r} has none")
            tokens = completions.tokens
            if needs.tokens and tokens is None:
                raise ValueError(f"loss {self.name} needs per-token log-probs; {side!r} has none")
            if needs.distribution == "policy" and (tokens is None or tokens.log_sum_squares is None):
                raise ValueError(f"loss {self.name} needs `log_sum_squares` of every token; {side!r} has none")
            if needs.distribution == "both" and (tokens is None or tokens.reference_kl is None):
                raise ValueError(f"loss {self.name} needs `reference_kl` of every token; {side!r} has none")
        if needs.mismatched and not batch.has("mismatched"):
            raise ValueError(f"loss {self.name} needs mismatched completions; the batch has none")


class PairLoss(Loss):
    """A loss over preference pairs."""

    needs: ClassVar[Needs] = Needs(rows={"pairs"})

    def rewards(self, batch: PreferenceBatch) -> dict[str, Tensor]:
        """`chosen_reward` and `rejected_reward` [B]."""
        return {
            "chosen_reward": self.reward(batch.chosen),
            "rejected_reward": self.reward(batch.rejected),
        }


class LabelLoss(Loss):
    """A loss over completions labelled desirable or not."""

    needs: ClassVar[Needs] = Needs(rows={"labels"})

    def rewards(self, batch: PreferenceBatch) -> dict[str, Tensor]:
        """`reward` [N]."""
        return {"reward": self.reward(batch.completions)}


class RankingLoss(Loss):
    """A loss over prompts with K scored completions."""

    needs: ClassVar[Needs] = Needs(rows={"rankings"})


def listed(names: Iterable[str]) -> str:
    """Names in alphabetical order, joined for a sentence.

    >>> listed({"pairs", "labels"})
    'labels or pairs'
    """
    return " or ".join(sorted(names))


def _is_number(annotation: Any) -> bool:
    """Whether it is `int`, `float`, or a union with one of them."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return bool({int, float}.intersection(parts))


def _range(info: pydantic.fields.FieldInfo) -> str:
    """The bounds of a field in words, empty when it has none."""
    words = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}
    bounds = [
        f"{phrase} {getattr(rule, key):g}"
        for rule in info.metadata
        for key, phrase in words.items()
        if getattr(rule, key, None) is not None
    ]
    return " and ".join(bounds)


def _explain(cls: type[Loss], error: ErrorDetails) -> str:
    if not error["loc"]:
        return f"loss {cls.name}: {error['msg'].removeprefix('Value error, ')}"
    key = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        known = sorted(cls.model_fields)
        near = nearest(key, known)
        guess = f"; did you mean {near!r}" if near else ""
        return f"loss {cls.name} has no field {key!r}{guess}; it has: {', '.join(known) or 'none'}"
    info = cls.model_fields[key]
    bounds = _range(info)
    kind = "a whole number" if int in (info.annotation, *get_args(info.annotation)) else "a number"
    wanted = f"must be {kind} {bounds}" if bounds else error["msg"].lower().removeprefix("input ")
    return f"loss {cls.name}: {key} = {error['input']!r}; it {wanted} (default {info.default!r})"
