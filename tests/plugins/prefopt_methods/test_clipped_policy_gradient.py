import dataclasses
import math

import pytest
import torch
from prefopt_methods import clipped_policy_gradient
from prefopt_methods.clipped_policy_gradient import Samples, advantages, clipped_objective, train
from prefopt_methods.optimum import optima
from prefopt_methods.ppo import PPO
from prefopt_methods.ppo_true_reward import PPOTrueReward
from prefopt_methods.reward_model import learnt_reward
from prefopt_methods.whitening import whitened
from small_worlds import BUDGET, assert_log_probs_of_policies, rewarded, worlds

from prefopt import Budget
from prefopt.worlds import Policies, exact

TRIALS = [{"learning_rate": 0.03, "beta": 0.5}, {"learning_rate": 0.1, "beta": 1.5}]


def gumbel(*size):
    uniform = torch.rand(size, generator=torch.Generator().manual_seed(0))
    return -(-uniform.log()).log()


# The parts, each against its definition ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.4, 0.0),  # good and already likelier by more than a fifth: nothing more to gain
        (0.5, 2.0, -1.0, -1.0),  # good but less likely: still worth its whole gradient
        (1.0, -3.0, 3.0, 3.0),
        (0.9, -3.0, 2.7, 2.7),
        (0.5, -3.0, 2.4, 0.0),  # bad and already rarer
        (1.5, -3.0, 4.5, 4.5),  # bad but likelier
    ],
)
def test_clipped_objective_is_the_worse_of_the_ratio_and_its_clip(ratio, advantage, expected, slope):
    log_ratio = torch.tensor(math.log(ratio), dtype=torch.float64, requires_grad=True)
    found = clipped_objective(log_ratio, torch.tensor(advantage, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(found, log_ratio)
    assert found.item() == pytest.approx(expected)
    assert gradient.item() == pytest.approx(slope)


@pytest.mark.parametrize("discount", [0.0, 0.7, 1.0])
def test_advantages_equal_the_double_sum(discount):
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([1, 2, 3, 4, 4])
    on = torch.arange(4) < lengths[:, None]
    rewards, values = rewards * on, values * on
    found = advantages(rewards, values, discount)
    for row, length in enumerate(lengths.tolist()):
        for place in range(4):
            total = 0.0
            for later in range(place, length):
                following = values[row, later + 1].item() if later + 1 < length else 0.0
                surprise = rewards[row, later].item() + following - values[row, later].item()
                total += discount ** (later - place) * surprise
            assert found[row, place].item() == pytest.approx(total, abs=1e-12)


def test_advantages_of_a_whole_completion_are_its_return_less_the_value():
    rewards, values = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    later = rewards.flip(-1).cumsum(-1).flip(-1)
    torch.testing.assert_close(advantages(rewards, values, 1.0), later - values)


def test_samples_come_as_often_as_their_probability_says():
    some = worlds(seeds=(0, 1), num_prompts=2)
    tree = some.tree
    policies = torch.stack([some.reference, some.reference.roll(1, dims=1)]).float()  # two trials
    prompts = torch.arange(40_000) % 2
    samples = Samples.draw(tree, policies, prompts, gumbel(2, tree.depth, len(prompts), tree.num_actions))
    drawn = samples.scored.sum(-1)
    last = samples.cells.gather(-1, drawn[..., None] - 1)[..., 0]
    cells = tree.num_prefixes * tree.num_actions
    assert torch.equal(last // cells, prompts.expand_as(last))
    own = tree.positions.gather(1, tree.lengths[:, None] - 1)[:, 0]
    assert len(own.unique()) == tree.num_completions
    for trial in range(2):
        for seed in range(2):
            for prompt in range(2):
                found = last[trial, seed, prompts == prompt] % cells
                share = (found[:, None] == own).float().mean(0)
                probability = tree.logps(policies)[trial, seed, prompt].exp()
                torch.testing.assert_close(share, probability, rtol=0, atol=0.015)


def test_tokens_of_a_sample_are_those_of_its_completion():
    some = worlds(seeds=(0,), num_prompts=2)
    tree = some.tree
    reference = some.reference[None].float()
    samples = Samples.draw(tree, reference, torch.arange(50) % 2, gumbel(1, tree.depth, 50, tree.num_actions))
    cells = tree.num_prefixes * tree.num_actions
    for row in range(50):
        length = samples.scored[0, 0, row].sum().item()
        own = samples.cells[0, 0, row, :length] - row % 2 * cells
        completion = next(
            number
            for number, positions in enumerate(tree.positions.tolist())
            if positions[:length] == own.tolist() and tree.lengths[number] == length
        )
        logp = samples.of_tokens(reference)[0, 0, row].sum()
        torch.testing.assert_close(logp, tree.logps(reference)[0, 0, row % 2, completion])
    prefixes = torch.arange(2.0 * tree.num_prefixes).view(1, 1, 2, tree.num_prefixes)
    torch.testing.assert_close(
        samples.of_prefixes(prefixes), samples.cells.div(tree.num_actions, rounding_mode="floor") * samples.scored * 1.0
    )


# The whole, against the optimum --------------------------------------------------------------------------------------


def short_of_the_optimum(found, some, beta):
    """[S] how much of what the optimum gains in reward - beta KL over the reference the last checkpoint misses."""

    def worth(logps):
        return (exact.expectation(logps, some.reward) - beta * exact.kl(logps, some.logps)).mean(-1)

    best = worth(optima(some.logps, some.reward, [{"beta": beta}])[0, :, 0])
    return 1 - (worth(found[0, :, -1]) - worth(some.logps)) / (best - worth(some.logps))


CLOSE = 0.005
EASY = worlds(seeds=(0, 1, 2), num_prompts=2)
LONG = Budget(400, 64, (400,))


def test_ppo_on_the_true_reward_comes_close_to_the_exact_optimum():
    found = train(EASY, EASY.reward, [{"learning_rate": 0.05, "beta": 0.5}], LONG)
    assert (short_of_the_optimum(found, EASY, 0.5) < CLOSE).all()
    best = optima(EASY.logps, EASY.reward, [{"beta": 0.5}])[0, :, 0]
    assert (exact.kl(found[0, :, -1], best) < 0.05).all()


@pytest.mark.parametrize(("reward", "beta"), [(1, 0.01), (1, 2.0), (-1, 0.5)], ids=["no KL", "more KL", "sign"])
def test_another_objective_ends_elsewhere(reward, beta):
    found = train(EASY, reward * EASY.reward, [{"learning_rate": 0.05, "beta": beta}], LONG)
    assert (short_of_the_optimum(found, EASY, 0.5) > 8 * CLOSE).all()


def test_learnt_values_are_those_of_the_optimum():
    # Where a policy is optimal, what is still to come from a prefix is beta log of the mean of exp(reward / beta).
    objective, tree = clipped_policy_gradient._Objective(EASY, EASY.reward, [0.5], 64), EASY.tree
    Policies(EASY, [0.05], 400).train(objective, (400,))
    lookups = {prefix: number for number, prefix in enumerate(tree.prefixes)}
    weight = EASY.logps + EASY.reward / 0.5
    for prefix in [(), (0,), (1,)]:
        below = torch.tensor([actions[: len(prefix)] == prefix for actions in tree.completions])
        truth = 0.5 * (weight[..., below].logsumexp(-1) - EASY.logps[..., below].logsumexp(-1))
        found = objective._values[0, ..., lookups[prefix]].detach().double()
        torch.testing.assert_close(found, truth, rtol=0, atol=0.4)


def test_low_rank_policies_learn_too():
    some = worlds(rank=2, num_prompts=6)
    found = train(some, some.reward, [{"learning_rate": 0.05, "beta": 0.5}], LONG)
    assert (short_of_the_optimum(found, some, 0.5) < 0.1).all()


# What every method keeps ---------------------------------------------------------------------------------------------


def test_a_run_depends_on_its_own_seed_and_trial_alone():
    beside = train(worlds(seeds=(0, 1)), worlds(seeds=(0, 1)).reward, TRIALS, BUDGET)
    assert_log_probs_of_policies(beside, 2, worlds(), num_checkpoints=2)
    alone = train(worlds(seeds=(1,)), worlds(seeds=(1,)).reward, TRIALS[1:], BUDGET)
    torch.testing.assert_close(alone[0, 0], beside[1, 1], rtol=1e-4, atol=1e-4)
    again = train(worlds(seeds=(0, 1)), worlds(seeds=(0, 1)).reward, TRIALS, BUDGET)
    assert torch.equal(beside, again)


def test_without_a_batch_size_there_are_as_many_samples_as_rows():
    some = worlds(num_rows=24)
    whole = train(some, some.reward, TRIALS, dataclasses.replace(BUDGET, batch_size=None))
    assert torch.equal(whole, train(some, some.reward, TRIALS, dataclasses.replace(BUDGET, batch_size=24)))
    assert not torch.equal(whole, train(some, some.reward, TRIALS, BUDGET))


def test_every_prompt_comes_in_turn_where_there_are_more_than_samples():
    some = worlds(seeds=(0,), num_prompts=200)
    found = train(some, some.reward, TRIALS[:1], Budget(20, 16, (20,)))  # 320 samples
    assert (exact.kl(found[0, 0, 0], some.logps[0]) > 0).all()


def test_ppo_learns_from_the_rows_and_ppo_true_reward_from_the_truth():
    some = worlds()
    lied = rewarded(some, -some.reward)
    learnt, truth = PPO().policies(TRIALS, some, BUDGET), PPOTrueReward().policies(TRIALS, some, BUDGET)
    assert torch.equal(learnt, PPO().policies(TRIALS, lied, BUDGET))
    assert not torch.equal(truth, PPOTrueReward().policies(TRIALS, lied, BUDGET))
    assert torch.equal(learnt, train(some, learnt_reward(some), TRIALS, BUDGET))
    assert torch.equal(truth, train(some, whitened(some.reward, some.logps), TRIALS, BUDGET))
    assert PPOTrueReward.knows_reward
    assert not PPO.knows_reward
