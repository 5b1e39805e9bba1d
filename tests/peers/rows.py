"""Random tokenised rows whose trees are all of one size, so that a token budget cuts them exactly as a test says."""

from __future__ import annotations

import random

from prefopt.batch import RowKind
from prefopt.data.row import Completion, Row

_OWN, _MISMATCHED = 20, 6  # tokens the model computes of a prompt with its own completions, and of mismatched ones


def even_rows(kind: RowKind, num_rows: int = 8, *, seed: int = 0) -> list[Row]:
    """Rows of unequal completions, scored tokens and weights, each with a prompt of its own."""
    draw = random.Random(seed)
    count = {"pairs": 2, "labels": 1, "demonstrations": 1, "rankings": 3}[kind]
    rows = []
    for number in range(1, num_rows + 1):
        prompt = (number, *(draw.randrange(64) for _ in range(draw.randint(1, 7))))
        own = _completions(draw, _OWN - len(prompt), count)
        if kind in ("pairs", "rankings"):  # the first is the better one
            own = [Completion(each.ids, each.scored, 9.0 - place) for place, each in enumerate(own)]
        rows.append(
            Row(
                kind=kind,
                source="even",
                number=number,
                prompt=prompt,
                completions=tuple(own),
                desirable=number % 3 != 0 if kind == "labels" else None,
                weight=draw.choice([0.5, 1.0, 2.0]),
                mismatched=tuple(_completions(draw, _MISMATCHED, count)),
            )
        )
    return rows


def _completions(draw: random.Random, num_read: int, count: int) -> list[Completion]:
    """So many completions of which the model reads so many tokens in all."""
    ends = sorted(draw.randint(0, num_read) for _ in range(count - 1))
    lengths = [end - start + 1 for start, end in zip([0, *ends], [*ends, num_read], strict=True)]
    found = []
    for length in lengths:
        scored = [draw.random() < 0.8 for _ in range(length)]
        scored[draw.randrange(length)] = True
        found.append(Completion(tuple(draw.randrange(64) for _ in range(length)), tuple(scored)))
    return found
