import torch
from prefopt_methods.whitening import whitened
from small_worlds import worlds

from prefopt.worlds import exact


def test_whitened_reward_has_mean_0_and_deviation_1_in_each_world():
    some = worlds(seeds=(0, 1, 2))
    prompts = torch.tensor([0.0, 4.0, -1.0], dtype=torch.float64)[:, None]
    found = whitened(5 * some.reward + prompts + 3, some.logps)
    mean = exact.expectation(some.logps, found).mean(-1)
    square = exact.expectation(some.logps, found.square()).mean(-1)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-12)
    torch.testing.assert_close(square, torch.ones_like(square))


def test_gaps_within_a_world_keep_their_proportions():
    some = worlds()
    gaps = whitened(some.reward, some.logps).diff(dim=-1) / some.reward.diff(dim=-1)
    torch.testing.assert_close(gaps, gaps[:, :1, :1].expand_as(gaps))


def test_a_reward_that_is_the_same_everywhere_becomes_0():
    some = worlds()
    assert whitened(torch.full_like(some.reward, 2.0), some.logps).abs().max() < 1e-2
