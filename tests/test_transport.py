"""The quantile coupling against what transport theory says of it."""

import pytest
import torch
from scipy.optimize import linprog

from prefopt import quantile_coupling

SEEDS = range(5)


def samples(seed, num_rows=7):
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, num_rows, dtype=torch.float64, generator=generator)
    weights = torch.rand(num_rows, dtype=torch.float64, generator=generator) + 0.1
    return first, second, weights


@pytest.mark.parametrize("weight", [1.0, 0.1, 1 / 3])
def test_equal_weights_pair_the_sorted_values(weight):
    first, second, _ = samples(0, 100)
    coupling = quantile_coupling(first, second, torch.full_like(first, weight))
    assert first[coupling.first].equal(first.sort().values)
    assert second[coupling.second].equal(second.sort().values)
    torch.testing.assert_close(coupling.share, torch.ones(100, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_row_gives_and_takes_its_weight(seed):
    first, second, weights = samples(seed)
    coupling = quantile_coupling(first, second, weights)
    mass = coupling.share * weights[coupling.first]
    empty = torch.zeros_like(weights)
    torch.testing.assert_close(empty.index_add(0, coupling.first, mass), weights, rtol=0, atol=1e-14)
    torch.testing.assert_close(empty.index_add(0, coupling.second, mass), weights, rtol=0, atol=1e-14)
    assert len(mass) <= 2 * len(weights) - 1


@pytest.mark.parametrize("seed", SEEDS)
def test_no_other_coupling_is_cheaper(seed):
    """The linear programme over all couplings, for a convex cost."""
    first, second, weights = samples(seed)
    coupling = quantile_coupling(first, second, weights)
    cost = (first[:, None] - second).square()
    found = (coupling.share * weights[coupling.first] * cost[coupling.first, coupling.second]).sum()
    one, ones = torch.eye(len(weights), dtype=torch.float64), torch.ones(1, len(weights), dtype=torch.float64)
    marginals = torch.cat([torch.kron(one, ones), torch.kron(ones, one)])
    best = linprog(cost.flatten().numpy(), A_eq=marginals.numpy(), b_eq=weights.repeat(2).numpy()).fun
    assert found == pytest.approx(best, rel=1e-9)


def test_row_of_weight_two_is_the_row_twice():
    first, second = torch.tensor([3.0, 1.0]), torch.tensor([0.0, 5.0])
    coupling = quantile_coupling(first, second, torch.tensor([1.0, 2.0]))
    # Sorted with repetition: 1 1 3 against 0 5 5.
    assert coupling.first.tolist() == [1, 1, 0]
    assert coupling.second.tolist() == [0, 1, 1]
    assert coupling.share.tolist() == [0.5, 0.5, 1.0]


def test_equal_values_keep_the_order_of_their_rows():
    coupling = quantile_coupling(torch.zeros(40), torch.arange(40.0), torch.ones(40))
    assert coupling.first.tolist() == coupling.second.tolist() == list(range(40))
