from __future__ import annotations

import math

import pytest
import torch

from prefopt.evaluation.calibration import calibration


def test_every_number_agrees_with_a_count_by_hand():
    random = torch.Generator().manual_seed(0)
    margins = torch.randn(300, generator=random, dtype=torch.float64) * 3
    margins[:4] = torch.tensor([0.0, 0.0, 60.0, -60.0])
    weights = torch.rand(300, generator=random, dtype=torch.float64) + 0.1
    found = calibration(margins, weights)
    error = brier = log_loss = 0.0
    bins: dict[int, list[tuple[float, float, float]]] = {}
    for margin, weight in zip(margins.tolist(), (weights / weights.sum()).tolist(), strict=True):
        chance = 1 / (1 + math.exp(-margin))
        favourite = max(chance, 1 - chance)
        right = 1.0 if margin > 0 else 0.5 if margin == 0 else 0.0
        bins.setdefault(min(9, int((favourite - 0.5) * 20)), []).append((weight, favourite, right))
        brier += weight * (1 - chance) ** 2
        log_loss -= weight * (math.log(chance) if margin > -50 else margin)
    assert [round((own.low - 0.5) * 20) for own in found.bins] == sorted(bins)
    for own, number in zip(found.bins, sorted(bins), strict=True):
        share = sum(weight for weight, _, _ in bins[number])
        predicted, won = (sum(part[0] * part[place] for part in bins[number]) / share for place in (1, 2))
        assert (own.share, own.predicted, own.won) == pytest.approx((share, predicted, won))
        assert own.low <= own.predicted <= own.high
        error += share * abs(predicted - won)
    assert found.expected_error == pytest.approx(error)
    assert found.brier == pytest.approx(brier)
    assert found.log_loss == pytest.approx(log_loss)


def test_a_bradley_terry_world_is_calibrated_and_an_overconfident_policy_is_not():
    """Pairs drawn with the very chances that the margins say: the chosen side is the favourite that often."""
    random = torch.Generator().manual_seed(1)
    utility = torch.randn(100_000, generator=random, dtype=torch.float64).abs()
    first_wins = torch.rand(100_000, generator=random, dtype=torch.float64) < utility.sigmoid()
    margins = torch.where(first_wins, utility, -utility)
    weights = torch.ones_like(margins)
    assert calibration(margins, weights).expected_error < 0.01
    assert calibration(4 * margins, weights).expected_error > 0.1
    assert calibration(margins, weights).brier < calibration(4 * margins, weights).brier


def test_a_policy_that_knows_nothing_scores_a_quarter_and_log_2():
    found = calibration(torch.zeros(5), torch.ones(5))
    assert (found.brier, found.log_loss, found.expected_error) == pytest.approx((0.25, math.log(2), 0.0))
