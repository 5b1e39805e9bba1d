"""Rows of given lengths."""

from __future__ import annotations

from prefopt.data.row import Completion, Row


def completion(length: int, score: float | None = None) -> Completion:
    return Completion((5,) * length, (True,) * length, score)


def pairs(*lengths: tuple[int, int], weights: tuple[float, ...] = ()) -> list[Row]:
    """Pairs of (chosen tokens, rejected tokens)."""
    return [
        Row("pairs", "made", number, (1,), (completion(chosen), completion(rejected)), weight=weight)
        for number, ((chosen, rejected), weight) in enumerate(
            zip(lengths, weights or (1.0,) * len(lengths), strict=True), 1
        )
    ]


def labels(desirable: list[int], undesirable: list[int], weights: list[float] | None = None) -> list[Row]:
    """Labels by the number of tokens of each completion."""
    both = [*((length, True) for length in desirable), *((length, False) for length in undesirable)]
    return [
        Row("labels", "made", number, (1,), (completion(length),), desirable=label, weight=weight)
        for number, ((length, label), weight) in enumerate(zip(both, weights or [1.0] * len(both), strict=True), 1)
    ]


def ranking(*completions: tuple[int, float], weight: float = 1.0) -> Row:
    """A ranking of (tokens, score)."""
    return Row("rankings", "made", 1, (1,), tuple(completion(*own) for own in completions), weight=weight)
