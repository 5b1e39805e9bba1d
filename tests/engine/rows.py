"""Random tokenised rows."""

from __future__ import annotations

import random

from prefopt.batch import RowKind
from prefopt.data.row import Completion, Row
from prefopt.engine.assembly import reading
from prefopt.errors import DataError
from prefopt.weighted import Objective


def completion(
    draw: random.Random, *, at_most: int = 9, vocab_size: int = 64, score: float | None = None
) -> Completion:
    length = draw.randint(1, at_most)
    scored = [draw.random() < 0.8 for _ in range(length)]
    scored[draw.randrange(length)] = True
    return Completion(tuple(draw.randrange(vocab_size) for _ in range(length)), tuple(scored), score)


def kind_of(loss: Objective) -> RowKind:
    """The kind of rows to show a loss: pairs where it can read them."""
    return next(kind for kind in ("pairs", "labels", "rankings", "demonstrations") if readable(kind, loss))


def readable(kind: RowKind, loss: Objective) -> bool:
    """Whether the loss can read rows of that kind."""
    try:
        reading(kind, loss)
    except DataError:
        return False
    return True


def random_rows(kind: RowKind, num_rows: int, *, seed: int = 0, num_completions: int = 4) -> list[Row]:
    """Rows of unequal lengths and weights; two neighbours share a prompt."""
    draw = random.Random(seed)
    counts = {"pairs": 2, "labels": 1, "demonstrations": 1, "rankings": num_completions}
    rows = []
    for number in range(1, num_rows + 1):
        prompt = tuple(draw.randrange(64) for _ in range(draw.randint(1, 12)))
        if number == 3:
            prompt = rows[-1].prompt
        own = tuple(
            completion(draw, score=float(-index if kind == "pairs" else index)) for index in range(counts[kind])
        )
        rows.append(
            Row(
                kind=kind,
                source="random",
                number=number,
                prompt=prompt,
                completions=own,
                desirable=draw.random() < 0.5 if kind == "labels" else None,
                undesirable_weight=draw.choice([0.5, 2.0]) if kind == "labels" else 1.0,
                weight=draw.choice([0.5, 1.0, 2.0]),
                mismatched=tuple(completion(draw) for _ in own),
            )
        )
    return rows
