"""What the data room hands to the engine: rows of token ids, validated and cut to length."""

from __future__ import annotations

from dataclasses import dataclass

from prefopt.batch import RowKind


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion of a prompt.

    Attributes:
        ids: Token ids, at least one; the end-of-turn token is the last unless the completion was cut.
        scored: One flag a token: True where the log-prob counts. Turns of others inside a completion are
            context and carry False. At least one is True.
        score: The rating of this completion (higher is better), or None.
    """

    ids: tuple[int, ...]
    scored: tuple[bool, ...]
    score: float | None = None

    @property
    def num_scored(self) -> int:
        """Scored tokens, the end-of-turn token included."""
        return sum(self.scored)


@dataclass(frozen=True, slots=True)
class Row:
    """One data row as read, tokenised and truncated.

    Attributes:
        kind: `pairs`: completions are (chosen, rejected). `labels`: one completion and `desirable`.
            `rankings`: K completions, each with a score. `demonstrations`: one completion.
        source: Where the row came from, as the user wrote it.
        number: Position in that source, counted from 1.
        prompt: Token ids, at least one.
        completions: In the order of the kind.
        desirable: The label of a `labels` row, else None.
        weight: Positive; 1 unless the data has a `weight` column.
        mismatched: One completion of another prompt for each own completion (KTO's KL estimate), or empty.
        undesirable_weight: What a `labels` row counts while it is undesirable (BCO's density ratio), positive; 1 unless
            the data has such a column.
    """

    kind: RowKind
    source: str
    number: int
    prompt: tuple[int, ...]
    completions: tuple[Completion, ...]
    desirable: bool | None = None
    weight: float = 1.0
    mismatched: tuple[Completion, ...] = ()
    undesirable_weight: float = 1.0

    @property
    def name(self) -> str:
        """The row's name in messages: source and number."""
        return f"{self.source} row {self.number}"
