import pytest
import torch
from prefopt_methods.best_of_n import best_of
from prefopt_methods.best_of_n_sampled import BestOfNSampled
from small_worlds import BUDGET, assert_log_probs_of_policies, rewarded, worlds


def sampled(num_decisions):
    method = BestOfNSampled()
    method.num_decisions = num_decisions
    return method


def distance(some, num_decisions, trials):
    """The largest total variation from the exact distribution."""
    exact = best_of(some.logps, some.reward, trials).exp()
    return (sampled(num_decisions).policies(trials, some, BUDGET).exp() - exact).abs().sum(-1).max().item() / 2


@pytest.mark.parametrize("decimals", [6, 0], ids=["no ties", "ties"])
def test_winners_approach_the_exact_distribution_as_decisions_grow(decimals):
    some = worlds(depth=2)
    some = rewarded(some, some.reward.round(decimals=decimals))
    trials = [{"n": n} for n in (1, 2, 5, 20)]
    few, many, most = (distance(some, num_decisions, trials) for num_decisions in (100, 5000, 200_000))
    assert few > many > most
    assert most < 0.006


def test_n_is_rounded():
    some = worlds()
    found = BestOfNSampled().policies([{"n": 3.4}, {"n": 3.0}, {"n": 2.6}, {"n": 4.0}], some, BUDGET)
    assert_log_probs_of_policies(found, 4, some)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[3])


def test_draws_depend_on_the_seed_alone():
    alone = BestOfNSampled().policies([{"n": 4.0}], worlds(seeds=(1,)), BUDGET)
    beside = BestOfNSampled().policies([{"n": 4.0}, {"n": 2.0}], worlds(seeds=(0, 1)), BUDGET)
    assert torch.equal(alone[0, 0], beside[0, 1])
