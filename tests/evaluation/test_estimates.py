from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from prefopt.evaluation.estimates import mean_of, quantiles_of, ratio_of


def test_a_plain_mean_has_scipys_standard_error():
    values = torch.randn(37, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = mean_of(values)
    assert found.mean == pytest.approx(float(values.mean()))
    assert found.standard_error == pytest.approx(scipy.stats.sem(values.numpy()))
    assert found.num == 37


def test_the_error_of_a_ratio_is_how_far_it_scatters_when_drawn_again():
    """40,000 samples of rows with token counts that go with their values; the error is the spread of the ratios."""
    random = np.random.default_rng(0)
    counts = random.integers(1, 20, size=(40_000, 60))
    totals = counts * (0.3 + 0.05 * counts) + random.normal(size=counts.shape)
    spread = (totals.sum(1) / counts.sum(1)).std()
    errors = [
        ratio_of(torch.from_numpy(total), torch.from_numpy(count)).standard_error
        for total, count in zip(totals[:300], counts[:300], strict=True)
    ]
    assert np.mean(errors) == pytest.approx(spread, rel=0.03)


def test_equal_weights_change_nothing_and_one_row_has_no_error():
    values = torch.tensor([1.0, 4.0, 4.0])
    assert mean_of(values, torch.full((3,), 2.5)) == mean_of(values)
    assert mean_of(torch.tensor([3.0])).standard_error is None


def test_quantiles_are_those_of_rows_repeated_as_often_as_they_weigh():
    random = np.random.default_rng(1)
    values, weights = random.normal(size=50), random.integers(1, 6, size=50)
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    found = quantiles_of(torch.from_numpy(values), torch.from_numpy(weights).double(), shares)
    truth = np.quantile(np.repeat(values, weights), shares, method="inverted_cdf")
    assert found == pytest.approx(truth.tolist(), abs=0)
