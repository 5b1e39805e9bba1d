"""What a loss sees: log-probabilities, lengths, labels. Never a model, never a token id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from prefopt.draws import Draws

RowKind = Literal["pairs", "labels", "rankings", "demonstrations"]
NLL = Literal["sequence", "sum", "token"]


@dataclass(frozen=True)
class Tokens:
    """Per-token values of N completions laid end to end; T is the number of scored tokens in all.

    Attributes:
        policy: [T] log-probs of the scored tokens, nats, <= 0.
        reference: [T] the same under the reference, or None.
        offsets: [N + 1] int64; completion i owns the positions offsets[i] to offsets[i + 1].
        reference_kl: [T] KL(reference || policy) of the next-token distributions, nats, >= 0, or None.
        log_sum_squares: [T] log of the sum of squared policy probabilities over the vocabulary, <= 0, or None;
            from the engine it carries no gradient.
    """

    policy: Tensor
    offsets: Tensor
    reference: Tensor | None = None
    reference_kl: Tensor | None = None
    log_sum_squares: Tensor | None = None

    @property
    def log_ratio(self) -> Tensor:
        """[T] policy minus reference log-prob of each token, nats; the reference carries no gradient."""
        if self.reference is None:
            raise ValueError("log_ratio needs reference log-probs of every token, and this batch has none")
        return self.policy - self.reference.detach()

    @property
    def lengths(self) -> Tensor:
        """[N] int64 number of positions of each completion."""
        return self.offsets.diff()

    def sum(self, values: Tensor) -> Tensor:
        """[N] `values` [T] summed over each completion.

        >>> tokens = Tokens(torch.tensor([-1.0, -2.0, -4.0]), offsets=torch.tensor([0, 2, 3]))
        >>> tokens.sum(tokens.policy)
        tensor([-3., -4.])
        """
        return torch.segment_reduce(values, "sum", lengths=self.lengths, unsafe=True)

    def spread(self, values: Tensor) -> Tensor:
        """[T] `values` [N], each repeated over the positions of its completion."""
        return values.repeat_interleave(self.lengths)

    def places(self) -> Tensor:
        """[T] int64 position of each token in its completion, from 0."""
        return torch.arange(len(self.policy), device=self.policy.device) - self.spread(self.offsets[:-1])


@dataclass(frozen=True)
class Completions:
    """Summed log-probs of N completions ([N]; [B, K] for rankings).

    Attributes:
        policy: [N] log-probs summed over the scored tokens, nats, <= 0.
        lengths: [N] scored tokens, >= 1 (0 marks an absent slot of a ranking).
        reference: [N] the same sums under the reference, or None.
        scores: [N] ratings, higher is better, or None.
        tokens: per-token values, or None.
    """

    policy: Tensor
    lengths: Tensor
    reference: Tensor | None = None
    scores: Tensor | None = None
    tokens: Tokens | None = None

    @property
    def log_ratio(self) -> Tensor:
        """[N] policy minus reference log-prob, nats; the reference carries no gradient."""
        if self.reference is None:
            raise ValueError("log_ratio needs reference log-probs, and this batch has none")
        return self.policy - self.reference.detach()

    @property
    def mean_logps(self) -> Tensor:
        """[N] log-prob per scored token, nats, <= 0."""
        return self.policy / self.lengths.to(self.policy.dtype)

    @property
    def mean_log_ratio(self) -> Tensor:
        """[N] log-ratio per scored token, nats."""
        return self.log_ratio / self.lengths.to(self.policy.dtype)

    def nll(self, reduction: NLL) -> tuple[Tensor, Tensor]:
        """The negative log-likelihood as a term of a loss: values [N], nats, >= 0, and normaliser [N].

        Args:
            reduction: "sequence": the mean per token of each completion; "sum": its sum; "token": its sum, normalised
                by the token count, so that the engine's quotient is the mean over all tokens of the optimiser batch.

        >>> completions = Completions(torch.tensor([-6.0]), lengths=torch.tensor([3]))
        >>> completions.nll("token"), completions.nll("sequence")
        ((tensor([6.]), tensor([3.])), (tensor([2.]), tensor([1.])))
        """
        if reduction == "token":
            return -self.policy, self.lengths.to(self.policy.dtype)
        return -self.policy if reduction == "sum" else -self.mean_logps, torch.ones_like(self.policy)

    def nll_slope(self, reduction: NLL) -> Tensor:
        """[N] d(value of `nll`) / d(policy): -1, or -1 / length for "sequence"."""
        minus_one = -torch.ones_like(self.policy)
        return minus_one / self.lengths.to(self.policy.dtype) if reduction == "sequence" else minus_one


@dataclass(frozen=True)
class PreferenceBatch:
    """B rows of one kind. Built by the `from_` constructors, which check every shape.

    Attributes:
        kind: which constructor made it.
        weights: [B] row weights, > 0; ones unless given.
        state: the loss's state before this batch; None stands for the loss's initial state.
        draws: random numbers for the rows; rows 0, 1, ... of seed 0 and step 0 unless given.
    """

    kind: RowKind
    weights: Tensor
    _sides: Mapping[str, Completions] = field(repr=False)
    _desirable: Tensor | None = field(default=None, repr=False)
    _undesirable_weight: Tensor | None = field(default=None, repr=False)
    state: Mapping[str, Tensor] | None = None
    draws: Draws = field(default_factory=lambda: Draws(()), repr=False)

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def chosen(self) -> Completions:
        """The preferred completions (pairs), or the demonstrations."""
        return self._side("chosen")

    @property
    def rejected(self) -> Completions:
        """The dispreferred completions (pairs)."""
        return self._side("rejected")

    @property
    def completions(self) -> Completions:
        """The completions of a batch of labels [B] or rankings [B, K]."""
        return self._side("completions")

    @property
    def mismatched(self) -> Completions:
        """Completions of other prompts, from which KTO estimates the KL (labels)."""
        return self._side("mismatched")

    @property
    def desirable(self) -> Tensor:
        """[B] bool labels (labels)."""
        if self._desirable is None:
            raise ValueError(f"a batch of {self.kind} has no `desirable`")
        return self._desirable

    @property
    def undesirable_weight(self) -> Tensor:
        """[B] what each row counts while it is undesirable: BCO's density ratio, > 0; ones unless given (labels)."""
        if self._undesirable_weight is None:
            return torch.ones_like(self.completions.policy)
        return self._undesirable_weight

    @property
    def gap(self) -> Tensor:
        """[B] log-ratio of the chosen less that of the rejected completion, nats (pairs)."""
        return self.chosen.log_ratio - self.rejected.log_ratio

    def has(self, side: str) -> bool:
        """Whether the batch carries that group of completions."""
        return side in self._sides

    def sides(self) -> Mapping[str, Completions]:
        """Every group of completions by name."""
        return self._sides

    def mean(self, values: Tensor) -> Tensor:
        """The weighted mean of `values` [B] over the batch: the statistic of coupled losses."""
        weights = self.weights.to(values.dtype)
        return (weights * values).sum() / weights.sum()

    def std(self, values: Tensor) -> Tensor:
        """The sample standard deviation of `values` [B], a row of weight w counting as w rows; 0 where w is 1 in all.

        >>> one = torch.ones(2)
        >>> batch = PreferenceBatch.from_demonstrations(policy=-one, lengths=one)
        >>> batch.std(torch.tensor([1.0, 3.0]))
        tensor(1.4142)
        """
        weights = self.weights.to(values.dtype)
        shifted = values - values[0]  # equal values deviate by exactly 0
        squares = (weights * (shifted - self.mean(shifted)).square()).sum()
        freedom = weights.sum() - 1
        return torch.where(freedom > 0, squares / freedom.clamp(min=torch.finfo(values.dtype).tiny), 0).sqrt()

    def _side(self, name: str) -> Completions:
        try:
            return self._sides[name]
        except KeyError:
            raise ValueError(f"a batch of {self.kind} without {name!r}; it has: {', '.join(self._sides)}") from None

    @classmethod
    def from_pairs(
        cls,
        *,
        policy_chosen: Tensor,
        policy_rejected: Tensor,
        chosen_lengths: Tensor,
        rejected_lengths: Tensor,
        reference_chosen: Tensor | None = None,
        reference_rejected: Tensor | None = None,
        chosen_scores: Tensor | None = None,
        rejected_scores: Tensor | None = None,
        chosen_tokens: Tokens | None = None,
        rejected_tokens: Tokens | None = None,
        weights: Tensor | None = None,
        state: Mapping[str, Tensor] | None = None,
        draws: Draws | None = None,
    ) -> PreferenceBatch:
        """A batch of preference pairs.

        Args:
            policy_chosen, policy_rejected: [B] summed log-probs, nats.
            chosen_lengths, rejected_lengths: [B] scored token counts, >= 1.
            reference_chosen, reference_rejected: [B], both or neither.
            chosen_scores, rejected_scores: [B], both or neither.
            chosen_tokens, rejected_tokens: per-token values, both or neither.
            weights: [B], > 0; absent: ones.
            state: the loss's state; absent: its initial state.
            draws: random numbers for the rows; absent: those of rows 0, 1, ... in seed 0, step 0.

        Raises:
            ValueError: a tensor is not of shape [B], or one of two that belong together is missing.
        """
        _together(reference_chosen=reference_chosen, reference_rejected=reference_rejected)
        _together(chosen_scores=chosen_scores, rejected_scores=rejected_scores)
        _together(chosen_tokens=chosen_tokens, rejected_tokens=rejected_tokens)
        shape = _rows("policy_chosen", policy_chosen)
        _same_shape(
            shape,
            policy_rejected=policy_rejected,
            chosen_lengths=chosen_lengths,
            rejected_lengths=rejected_lengths,
            reference_chosen=reference_chosen,
            reference_rejected=reference_rejected,
            chosen_scores=chosen_scores,
            rejected_scores=rejected_scores,
            weights=weights,
        )
        return cls(
            kind="pairs",
            weights=_weights(weights, policy_chosen),
            state=state,
            draws=_draws(draws, policy_chosen),
            _sides={
                "chosen": Completions(policy_chosen, chosen_lengths, reference_chosen, chosen_scores, chosen_tokens),
                "rejected": Completions(
                    policy_rejected, rejected_lengths, reference_rejected, rejected_scores, rejected_tokens
                ),
            },
        )

    @classmethod
    def from_labels(
        cls,
        *,
        policy: Tensor,
        lengths: Tensor,
        desirable: Tensor,
        reference: Tensor | None = None,
        mismatched_policy: Tensor | None = None,
        mismatched_reference: Tensor | None = None,
        mismatched_lengths: Tensor | None = None,
        undesirable_weight: Tensor | None = None,
        tokens: Tokens | None = None,
        weights: Tensor | None = None,
        state: Mapping[str, Tensor] | None = None,
        draws: Draws | None = None,
    ) -> PreferenceBatch:
        """A batch of completions, each labelled desirable or not.

        Args:
            policy: [N] summed log-probs, nats.
            lengths: [N] scored token counts, >= 1.
            desirable: [N] bool.
            reference: [N] or absent.
            mismatched_policy, mismatched_reference: [N] log-probs of each row's mismatched completion, both
                or neither.
            mismatched_lengths: [N] their scored token counts; absent: `lengths` stands in.
            undesirable_weight: [N] what each row counts while it is undesirable, > 0; absent: ones.
            tokens: per-token values, or absent.
            weights: [N], > 0; absent: ones.
            state: the loss's state; absent: its initial state.
            draws: random numbers for the rows; absent: those of rows 0, 1, ... in seed 0, step 0.

        Raises:
            ValueError: a tensor is not of shape [N], `desirable` is not bool, or one of two is missing.
        """
        _together(mismatched_policy=mismatched_policy, mismatched_reference=mismatched_reference)
        shape = _rows("policy", policy)
        _same_shape(
            shape,
            lengths=lengths,
            desirable=desirable,
            reference=reference,
            mismatched_policy=mismatched_policy,
            mismatched_reference=mismatched_reference,
            mismatched_lengths=mismatched_lengths,
            undesirable_weight=undesirable_weight,
            weights=weights,
        )
        if desirable.dtype != torch.bool:
            raise ValueError(f"desirable has dtype {desirable.dtype}; it must be torch.bool")
        sides = {"completions": Completions(policy, lengths, reference, tokens=tokens)}
        if mismatched_policy is not None:
            sides["mismatched"] = Completions(
                mismatched_policy,
                lengths if mismatched_lengths is None else mismatched_lengths,
                mismatched_reference,
            )
        return cls(
            kind="labels",
            weights=_weights(weights, policy),
            state=state,
            draws=_draws(draws, policy),
            _sides=sides,
            _desirable=desirable,
            _undesirable_weight=undesirable_weight,
        )

    @classmethod
    def from_rankings(
        cls,
        *,
        policy: Tensor,
        lengths: Tensor,
        scores: Tensor,
        reference: Tensor | None = None,
        tokens: Tokens | None = None,
        weights: Tensor | None = None,
        state: Mapping[str, Tensor] | None = None,
        draws: Draws | None = None,
    ) -> PreferenceBatch:
        """A batch of prompts with K scored completions each.

        Args:
            policy: [B, K] summed log-probs, nats.
            lengths: [B, K] scored token counts; 0 marks an absent slot.
            scores: [B, K]; the best completion has the highest.
            reference: [B, K] or absent.
            tokens: per-token values, or absent.
            weights: [B], > 0; absent: ones.
            state: the loss's state; absent: its initial state.
            draws: random numbers for the rows; absent: those of rows 0, 1, ... in seed 0, step 0.

        Raises:
            ValueError: `policy` is not [B, K], or another tensor has another shape.
        """
        if policy.dim() != 2:
            raise ValueError(f"policy has shape {list(policy.shape)}; rankings need [B, K]")
        _same_shape(policy.shape, lengths=lengths, scores=scores, reference=reference)
        _same_shape(policy.shape[:1], weights=weights)
        return cls(
            kind="rankings",
            weights=_weights(weights, policy),
            state=state,
            draws=_draws(draws, policy),
            _sides={"completions": Completions(policy, lengths, reference, scores, tokens)},
        )

    @classmethod
    def from_demonstrations(
        cls,
        *,
        policy: Tensor,
        lengths: Tensor,
        weights: Tensor | None = None,
        tokens: Tokens | None = None,
        state: Mapping[str, Tensor] | None = None,
        draws: Draws | None = None,
    ) -> PreferenceBatch:
        """A batch of demonstrations: it fills `chosen` alone.

        Args:
            policy: [B] summed log-probs, nats.
            lengths: [B] scored token counts, >= 1.
            weights: [B], > 0; absent: ones.
            tokens: per-token values, or absent.
            state: the loss's state; absent: its initial state.
            draws: random numbers for the rows; absent: those of rows 0, 1, ... in seed 0, step 0.

        Raises:
            ValueError: a tensor is not of shape [B].
        """
        shape = _rows("policy", policy)
        _same_shape(shape, lengths=lengths, weights=weights)
        return cls(
            kind="demonstrations",
            weights=_weights(weights, policy),
            state=state,
            draws=_draws(draws, policy),
            _sides={"chosen": Completions(policy, lengths, tokens=tokens)},
        )


def _rows(name: str, values: Tensor) -> torch.Size:
    if values.dim() != 1:
        raise ValueError(f"{name} has shape {list(values.shape)}; it must be one value a row")
    return values.shape


def _same_shape(shape: torch.Size, **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} has shape {list(tensor.shape)}; the batch has {list(shape)}")


def _together(**tensors: object | None) -> None:
    absent = [name for name, tensor in tensors.items() if tensor is None]
    if absent and len(absent) < len(tensors):
        present = [name for name in tensors if name not in absent]
        raise ValueError(f"{' and '.join(present)} given without {' and '.join(absent)}")


def _weights(weights: Tensor | None, like: Tensor) -> Tensor:
    return like.new_ones(like.shape[0]) if weights is None else weights


def _draws(draws: Draws | None, like: Tensor) -> Draws:
    num_rows = like.shape[0]
    if draws is None:
        return Draws(tuple(range(num_rows)))
    if len(draws.row_ids) != num_rows:
        raise ValueError(f"draws has {len(draws.row_ids)} row ids; the batch has {num_rows} rows")
    return draws
