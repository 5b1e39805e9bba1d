import math

import pytest
import torch
from prefopt_methods.best_of_n import BestOfN, best_of
from small_worlds import BUDGET, assert_log_probs_of_policies, best_of_tuples, worlds

from prefopt.worlds import exact


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("decimals", [6, 0], ids=["no ties", "ties"])
def test_best_of_n_equals_the_count_over_all_tuples(n, decimals):
    some = worlds(depth=2)
    reward = some.reward.round(decimals=decimals)
    if decimals == 0:
        assert any(len(set(row.tolist())) < len(row) for row in reward.flatten(0, 1))
    found = best_of(some.logps, reward, [{"n": n}])[0, :, 0]
    for seed in range(2):
        for prompt in range(3):
            won = best_of_tuples(some.logps[seed, prompt], reward[seed, prompt], n)
            torch.testing.assert_close(found[seed, prompt].exp(), won)


def test_best_of_one_is_the_reference():
    some = worlds()
    torch.testing.assert_close(BestOfN().policies([{"n": 1.0}], some, BUDGET)[0, :, 0], some.logps)


def test_kl_stays_below_its_known_bound_and_reward_grows_with_n():
    some = worlds(depth=5)
    sizes = [1.0, 1.7, 4.0, 16.0, 77.7, 128.0]
    found = BestOfN().policies([{"n": n} for n in sizes], some, BUDGET)
    assert_log_probs_of_policies(found, len(sizes), some)
    kl = exact.kl(found, some.logps[:, None]).amax((1, 2, 3))
    bound = torch.tensor([math.log(n) - (n - 1) / n for n in sizes], dtype=torch.float64)
    assert (kl <= bound + 1e-9).all()
    assert kl[3] > 0.5 * bound[3]
    assert (exact.expectation(found, some.reward[:, None]).mean((1, 2, 3)).diff() > 0).all()


def test_rare_completions_and_many_draws_are_not_lost_to_rounding():
    logps = torch.log_softmax(torch.tensor([[[0.0, -50.0, -2.0, -40.0]]], dtype=torch.float64), -1)
    reward = torch.tensor([[[0.0, 1.0, 2.0, 3.0]]], dtype=torch.float64)
    found = best_of(logps, reward, [{"n": 128.0}])[0, 0, 0, 0]
    expected_best = logps[0, 0, 3] + math.log(128)  # 1 - (1 - p)^n is np for a small p
    assert found[3].item() == pytest.approx(expected_best.item(), abs=1e-10)
    assert found[0].item() == pytest.approx(128 * logps[0, 0, 0].item(), rel=1e-9)
    assert found.isfinite().all()
