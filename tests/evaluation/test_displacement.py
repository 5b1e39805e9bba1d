from __future__ import annotations

import random

import pytest
import torch

import prefopt
from prefopt.engine.assembly import Assembly
from prefopt.engine.logps import TokenLogps
from prefopt.evaluation.displacement import displacements
from tests.engine.rows import random_rows

REGISTRY = prefopt.load_registry()


def scored(assembly, seed):
    """Random token log-probs of every slot."""
    draw = random.Random(seed)
    pieces = [[draw.uniform(-3, 0) for _ in range(own.num_scored)] for _, own in assembly.slots]
    values = torch.tensor([value for piece in pieces for value in piece], dtype=torch.float64)
    return TokenLogps(values, tuple(map(len, pieces))), [sum(piece) for piece in pieces]


@pytest.mark.parametrize(
    ("kind", "loss"), [("pairs", "dpo"), ("labels", "kto"), ("rankings", "pl_dpo"), ("demonstrations", "sft")]
)
def test_each_side_is_counted_row_by_row(kind, loss):
    rows = random_rows(kind, 9)
    assembly = Assembly.of(rows, REGISTRY.loss(loss))
    (policy, ours), (reference, theirs) = scored(assembly, 1), scored(assembly, 2)
    expected: dict[str, list[tuple[float, float, int]]] = {}
    for row, first in zip(rows, assembly.starts, strict=True):
        if kind == "pairs":
            sides = {"chosen": 0, "rejected": 1}
        elif kind == "labels":
            sides = {"chosen" if row.desirable else "rejected": 0}
        elif kind == "rankings":
            scores = [own.score for own in row.completions]
            sides = {"chosen": scores.index(max(scores)), "rejected": scores.index(min(scores))}
        else:
            sides = {"chosen": 0}
        for side, place in sides.items():
            ratio = ours[first + place] - theirs[first + place]
            expected.setdefault(side, []).append((row.weight, ratio, row.completions[place].num_scored))
    found = displacements(assembly, policy, reference)
    assert set(found) == set(expected)
    for side, parts in expected.items():
        weight = sum(part[0] for part in parts)
        own = found[side]
        assert own.log_ratio.mean == pytest.approx(sum(w * ratio for w, ratio, _ in parts) / weight)
        assert own.share_fell == pytest.approx(sum(w for w, ratio, _ in parts if ratio < 0) / weight)
        assert own.num_tokens.mean == pytest.approx(sum(w * count for w, _, count in parts) / weight)
        tokens = sum(w * count for w, _, count in parts)
        assert own.per_token.mean == pytest.approx(sum(w * ratio for w, ratio, _ in parts) / tokens)
        assert own.interval[0] < own.share_fell + 1e-12
        assert own.log_ratio.num == len(parts)


def test_a_policy_that_has_not_moved_ties_everywhere():
    assembly = Assembly.of(random_rows("pairs", 4), REGISTRY.loss("dpo"))
    same, _ = scored(assembly, 1)
    found = displacements(assembly, same, same)
    assert {own.share_fell for own in found.values()} == {0.5}
    assert {own.log_ratio.mean for own in found.values()} == {0.0}
