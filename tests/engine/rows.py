"""Random tokenised rows."""

from __future__ import annotations

import random

from prefopt.batch import RowKind
from prefopt.data.row import Completion, Row


def completion(
    draw: random.Random, *, at_most: int = 9, vocab_size: int = 64, score: float | None = None
) -> Completion:
    length = draw.randint(1, at_most)
    scored = [draw.random() < 0.8 for _ in range(length)]
    scored[draw.randrange(length)] = True
    return Completion(tuple(draw.randrange(vocab_size) for _ in range(length)), tuple(scored), score)


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
            completion(draw, score=float(index) if kind == "rankings" else None) for index in range(counts[kind])
        )
        rows.append(
            Row(
                kind=kind,
                source="random",
                number=number,
                prompt=prompt,
                completions=own,
                desirable=draw.random() < 0.5 if kind == "labels" else None,
                weight=draw.choice([0.5, 1.0, 2.0]),
                mismatched=tuple(completion(draw) for _ in own),
            )
        )
    return rows
