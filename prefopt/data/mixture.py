"""Several sources of one kind of row, drawn from by weight."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias, TypeVar, cast

from prefopt.config import PartConfig
from prefopt.data.sources import Source, source_name

TrainSource: TypeAlias = "Source | tuple[PartConfig, ...]"
T = TypeVar("T")


class Part(NamedTuple):
    """One source of a run.

    Attributes:
        name: what reports call its part in the run: `train`, or `train.0` and so on in a mixture.
        source: where its rows come from.
        share: of the rows drawn, > 0; all shares sum to 1.
    """

    name: str
    source: Source
    share: float


def parts_of(train: TrainSource) -> list[Part]:
    """The sources to train on: one, or those of a mixture."""
    if not isinstance(train, tuple) or not all(isinstance(part, PartConfig) for part in train):
        return [Part("train", cast("Source", train), 1.0)]
    parts = cast("tuple[PartConfig, ...]", train)
    total = math.fsum(part.weight for part in parts)
    if len(parts) == 1:
        return [Part("train", parts[0].source, 1.0)]
    return [Part(f"train.{place}", part.source, part.weight / total) for place, part in enumerate(parts)]


def names_of(parts: Sequence[Part]) -> str:
    """The sources in messages."""
    return " and ".join(source_name(part.source) for part in parts)


def shared_out(count: int, shares: Sequence[float]) -> list[int]:
    """A number of rows shared out, by largest remainder; of equal ones the first.

    >>> shared_out(10, [0.55, 0.25, 0.2])
    [6, 2, 2]
    """
    exact = [count * share for share in shares]
    whole = [math.floor(part + 1e-9) for part in exact]
    by_remainder = sorted(range(len(shares)), key=lambda place: whole[place] - exact[place])
    for place in by_remainder[: count - sum(whole)]:
        whole[place] += 1
    return whole


def epoch_length(counts: Sequence[int], shares: Sequence[float], ends: Literal["first", "all"]) -> int:
    """Rows drawn in an epoch of a mixture whose sources hold `counts` rows.

    first: as many as, on average, use up the source that runs out first. all: as many as use up the last one.

    >>> epoch_length([100, 50], [0.8, 0.2], "first"), epoch_length([100, 50], [0.8, 0.2], "all")
    (125, 250)
    """
    lasts = [count / share for count, share in zip(counts, shares, strict=True)]
    # counts and shares are given in few digits; what a division adds behind them is no row
    return max(1, math.floor(min(lasts) + 1e-9)) if ends == "first" else math.ceil(max(lasts) - 1e-9)


def interleaved(
    sources: Sequence[Callable[[], Iterator[T]]], shares: Sequence[float], ends: Literal["first", "all"], seed: str
) -> Iterator[T]:
    """One epoch of streams: each row from a source drawn by its share, every source in its own order.

    Args:
        sources: Each begins to read its rows.
        shares: How often a row is drawn from each.
        ends: first: the epoch ends when a row is drawn from a source that has none left. all: it ends when every source
            has ended once; one that ends before begins again.
        seed: Draws the sources.
    """
    if len(sources) == 1:
        yield from sources[0]()
        return
    draw = random.Random(seed)
    places = range(len(sources))
    reading = [begin() for begin in sources]
    ended: set[int] = set()
    while True:
        (place,) = draw.choices(places, shares)
        row = next(reading[place], None)
        if row is None:
            ended.add(place)
            if ends == "first" or len(ended) == len(sources):
                return
            reading[place] = sources[place]()
            row = next(reading[place])
        yield row
