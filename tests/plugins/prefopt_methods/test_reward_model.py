import dataclasses

import numpy as np
import pytest
import torch
from prefopt_methods import reward_model
from prefopt_methods.best_of_n import best_of
from prefopt_methods.best_of_n_reward_model import BestOfNRewardModel
from prefopt_methods.optimum import optima
from prefopt_methods.optimum_reward_model import OptimumRewardModel
from prefopt_methods.reward_model import learnt_reward
from prefopt_methods.whitening import whitened
from scipy.optimize import minimize
from small_worlds import BUDGET, rewarded, worlds

from prefopt.errors import DataError
from prefopt.worlds import Rows, World, Worlds, exact


def annotated(kind, num_rows, seeds=(0, 1)):
    """Worlds whose annotators give rows of that kind."""
    drawn = [World.draw(seed, num_prompts=3, num_tokens=2, depth=3, num_rows=num_rows) for seed in seeds]
    if kind == "rankings":
        drawn = [world.annotated(num_completions=4) for world in drawn]
    elif kind == "labels":
        drawn = [dataclasses.replace(world, sampler=labels(world)) for world in drawn]
    return Worlds.of(drawn, list(seeds))


def labels(world):
    """Annotators to whom a completion must be worth 2 nats for an even chance of a thumb up."""

    def sampler(generator, num_rows):
        prompts = torch.from_numpy(generator.integers(len(world.reward), size=num_rows))
        noise = torch.from_numpy(generator.gumbel(size=(num_rows, world.tree.num_completions)))
        completions = (world.logps[prompts] + noise).argmax(-1)
        chance = (world.reward[prompts, completions] - 2).sigmoid()
        desirable = torch.from_numpy(generator.random(num_rows)) < chance
        return Rows("labels", prompts, completions[:, None], desirable=desirable)

    return sampler


def correlation(some):
    """[S] of the learnt with the true reward, under the reference, prompt by prompt."""

    def scaled(reward):
        centred = reward - exact.expectation(some.logps, reward)[..., None]
        return centred / exact.expectation(some.logps, centred.square()).sqrt()[..., None]

    return exact.expectation(some.logps, scaled(learnt_reward(some)) * scaled(some.reward)).mean(-1)


@pytest.mark.parametrize("kind", ["pairs", "rankings", "labels"])
def test_learnt_reward_approaches_the_true_one_as_rows_grow(kind):
    few, many, most = (correlation(annotated(kind, num_rows)).mean() for num_rows in (40, 400, 4000))
    assert few < many < most
    assert most > 0.95


def test_learnt_reward_does_not_see_the_true_one():
    some = annotated("pairs", 200)
    assert torch.equal(learnt_reward(some), learnt_reward(rewarded(some, -some.reward)))
    assert (correlation(rewarded(some, -some.reward)) < -0.3).all()


def misfit_of_pairs(effects, some, ridge):
    """The penalised likelihood of Bradley and Terry, written again over a dense design."""
    tree, rows = some.tree, some.rows[0]
    size = tree.num_prefixes * tree.num_actions
    uses = np.zeros((tree.num_completions, size + 1))
    np.add.at(uses, (np.arange(tree.num_completions)[:, None], tree.positions.numpy()), 1)
    first, second = uses[rows.completions.numpy()].transpose(1, 0, 2)[..., :size]
    margin = ((first - second) * effects.reshape(-1, size)[rows.prompts.numpy()]).sum(-1)
    design = np.zeros((len(rows), *effects.reshape(-1, size).shape))
    design[np.arange(len(rows)), rows.prompts.numpy()] = first - second
    value = np.logaddexp(0, -margin).sum() + ridge / 2 * (effects**2).sum()
    slope = ridge * effects - (design.reshape(len(rows), -1) / (1 + np.exp(margin))[:, None]).sum(0)
    return value, slope


@pytest.mark.parametrize("ridge", [1.0, 10.0])
def test_fit_ends_at_the_minimum_that_another_optimiser_finds(ridge):
    some = annotated("pairs", 300, seeds=(0,))
    effects, _ = reward_model._fit(some, some.rows, torch.tensor([[ridge]]))
    best = minimize(misfit_of_pairs, np.zeros(effects.numel()), (some, ridge), jac=True, method="L-BFGS-B", tol=1e-12)
    assert misfit_of_pairs(effects.double().numpy().ravel(), some, ridge)[0] == pytest.approx(best.fun, rel=1e-4)
    np.testing.assert_allclose(effects.numpy().ravel(), best.x, atol=0.02)


def test_ranking_of_two_is_a_pair():
    some = annotated("pairs", 100)
    ranked = dataclasses.replace(some, rows=tuple(rows.read_as({"rankings"}) for rows in some.rows))
    torch.testing.assert_close(learnt_reward(some), learnt_reward(ranked))


def test_likelihood_of_a_ranking_is_that_of_plackett_and_luce():
    some = annotated("rankings", 7, seeds=(0,))
    rows = some.rows[0]
    effects = torch.randn(1, *some.reference.shape, generator=torch.Generator().manual_seed(0))
    rewards = some.tree.logps(effects)[0, 0, rows.prompts[:, None], rows.completions]
    expected = -sum(torch.log_softmax(rewards[:, place:], -1)[:, 0].sum() for place in range(4))
    found = reward_model._misfit(some, effects, torch.zeros(1, 1), reward_model._stacked(some.rows))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_threshold_alone_is_the_log_odds_of_a_thumb_down():
    some = annotated("labels", 200)
    _, threshold = reward_model._fit(some, some.rows, torch.full((1, 2), 1e6))
    up = torch.stack([rows.desirable.float().mean() for rows in some.rows])
    assert (up < 0.3).all()
    torch.testing.assert_close(threshold, torch.log((1 - up) / up)[None], rtol=0, atol=0.01)


def test_rows_that_say_nothing_get_a_larger_ridge():
    knobs = {"num_prompts": 3, "num_tokens": 2, "depth": 3, "num_rows": 1000}
    clear, noise = (
        reward_model._best_ridges(
            Worlds.of([World.draw(s, **knobs).annotated(flipped=flipped) for s in (0, 1)], (0, 1))
        )
        for flipped in (0.0, 0.5)
    )
    assert (noise >= 10).all()
    assert (clear <= 3).all()


def test_weight_of_a_row_counts_as_copies_of_it():
    some = annotated("pairs", 50, seeds=(0,))
    rows = some.rows[0]
    twice = rows.take(torch.arange(50).repeat_interleave(2))
    weighted = dataclasses.replace(rows, weights=torch.full((50,), 2.0))
    effects = torch.randn(1, *some.reference.shape, generator=torch.Generator().manual_seed(0))
    copied, found = (
        reward_model._misfit(some, effects, torch.zeros(1, 1), reward_model._stacked([each]))
        for each in (twice, weighted)
    )
    torch.testing.assert_close(copied, found)


def test_low_rank_worlds_get_a_low_rank_model():
    some = worlds(rank=1, num_prompts=6)
    effects, _ = reward_model._fit(some, some.rows, torch.ones(1, 2))
    assert (torch.linalg.matrix_rank(effects[0].flatten(-2), rtol=1e-4) == 1).all()


@pytest.mark.parametrize(
    ("kind", "num_rows", "message"), [("demonstrations", 20, "demonstrations"), ("pairs", 4, "at least 5")]
)
def test_rows_that_teach_no_reward_are_refused(kind, num_rows, message):
    some = annotated("pairs", num_rows)
    some = dataclasses.replace(some, rows=tuple(rows.read_as({kind}) for rows in some.rows))
    with pytest.raises(DataError, match=message):
        learnt_reward(some)


def test_methods_of_the_learnt_reward_are_those_of_the_true_one_on_it():
    some = annotated("pairs", 100)
    reward = learnt_reward(some)
    best, tilted = [{"n": 3.0}, {"n": 9.5}], [{"beta": 0.5}, {"beta": 2.0}]
    assert torch.equal(BestOfNRewardModel().policies(best, some, BUDGET), best_of(some.logps, reward, best))
    assert torch.equal(OptimumRewardModel().policies(tilted, some, BUDGET), optima(some.logps, reward, tilted))
    torch.testing.assert_close(whitened(reward, some.logps), reward)
    assert not BestOfNRewardModel.knows_reward
    assert not OptimumRewardModel.knows_reward
