from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from prefopt.loss import LossOutput
from prefopt.training.loss_error import loss_error


def result(output, weights):
    rows = [SimpleNamespace(weight=weight) for weight in weights]
    return SimpleNamespace(output=output, assembly=SimpleNamespace(rows=rows, owners=range(len(rows))))


def test_of_a_plain_mean_it_is_the_standard_error():
    values = torch.tensor([0.3, 1.1, -0.4, 2.0, 0.9])
    found = loss_error(result(LossOutput(values), [1.0] * 5))
    assert found == pytest.approx(float(values.double().std()) / math.sqrt(5), rel=1e-6)


def test_of_equal_rows_it_is_nothing_and_of_one_row_nothing_is_known():
    assert loss_error(result(LossOutput(torch.full((4,), 0.7)), [1.0, 2.0, 1.0, 0.5])) == pytest.approx(0, abs=1e-8)
    assert loss_error(result(LossOutput(torch.tensor([0.7])), [1.0])) is None


def test_it_is_how_much_the_loss_of_a_drawn_batch_varies():
    """Ratios of weighted sums over 60 rows drawn anew, 4,000 times, the sum of two terms."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 30, (2000,), generator=generator).double()
    values = lengths * (2 + torch.randn(2000, generator=generator).double())
    flat = torch.randn(2000, generator=generator).double()
    weights = torch.rand(2000, generator=generator).double() + 0.5

    def batch(picked):
        terms = {"a": (values[picked], lengths[picked]), "b": (flat[picked], torch.ones(60).double())}
        return LossOutput.from_terms(**terms), weights[picked]

    totals, errors = [], []
    for _ in range(4000):
        output, own = batch(torch.randint(2000, (60,), generator=generator))
        totals.append(sum((own * v).sum() / (own * n).sum() for v, n in output.terms.values()))
        errors.append(loss_error(result(output, own.tolist())) if len(errors) < 200 else None)
    spread = float(torch.stack(totals).std())
    mean = sum(filter(None, errors)) / 200
    assert mean == pytest.approx(spread, rel=0.05)
