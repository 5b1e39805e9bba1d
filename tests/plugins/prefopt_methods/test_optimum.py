import torch
from prefopt_methods.optimum import Optimum, optima
from prefopt_methods.whitening import whitened
from small_worlds import BUDGET, assert_log_probs_of_policies, worlds

from prefopt.worlds import exact

TRIALS = [{"beta": 0.1}, {"beta": 0.7}, {"beta": 3.0}]


def test_optimum_is_the_reference_tilted_by_the_reward():
    some = worlds()
    found = optima(some.logps, some.reward, TRIALS)
    for policy, trial in zip(found[:, :, 0], TRIALS, strict=True):
        tilted = some.logps.exp() * (some.reward / trial["beta"]).exp()
        torch.testing.assert_close(policy.exp(), tilted / tilted.sum(-1, keepdim=True))


def test_optimum_lies_on_the_frontier():
    some = worlds(seeds=(0, 1, 2))
    found = Optimum().policies(TRIALS, some, BUDGET)
    assert_log_probs_of_policies(found, 3, some)
    kl = exact.kl(found, some.logps[:, None]).mean(-1)
    reward = exact.expectation(found, some.reward[:, None]).mean(-1)
    for seed in range(3):
        best = exact.frontier(some.logps[seed], some.reward[seed], kl[:, seed, 0])
        torch.testing.assert_close(reward[:, seed, 0], best, rtol=0, atol=1e-8)


def test_a_policy_off_the_frontier_is_told_from_the_optimum():
    some = worlds()
    found = optima(some.logps, -some.reward, TRIALS)
    kl = exact.kl(found, some.logps[:, None]).mean(-1)
    reward = exact.expectation(found, some.reward[:, None]).mean(-1)
    assert (reward[:, 0, 0] < exact.frontier(some.logps[0], some.reward[0], kl[:, 0, 0]) - 0.1).all()


def test_beta_counts_in_deviations_of_the_reward():
    some = worlds()
    scaled = whitened(7 * some.reward + 2, some.logps)
    torch.testing.assert_close(optima(some.logps, scaled, TRIALS), Optimum().policies(TRIALS, some, BUDGET))
