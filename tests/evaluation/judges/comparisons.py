"""Comparisons for tests of judges."""

from __future__ import annotations

from prefopt.evaluation.judges.comparison import Comparison


def compared(*answers: tuple[str, str], truth: str | None = None) -> list[Comparison]:
    """One comparison for each (policy's answer, other answer)."""
    return [
        Comparison(f"rows row {number}", number, f"Question {number}", policy, other, truth)
        for number, (policy, other) in enumerate(answers, 1)
    ]
