import pytest
import torch

from prefopt.worlds import World, Worlds, exact


def test_a_world_is_a_function_of_its_seed_and_knobs():
    first, again, other = World.draw(1), World.draw(1), World.draw(2)
    assert first.reference.equal(again.reference)
    assert first.reward.equal(again.reward)
    assert first.rows(1).completions.equal(again.rows(1).completions)
    assert not first.reward.equal(other.reward)
    assert not first.rows(1).completions.equal(first.rows(2).completions)


def test_more_rows_begin_with_other_rows_of_the_same_world():
    few, many = World.draw(1, num_rows=8), World.draw(1, num_rows=16)
    assert few.reward.equal(many.reward)
    assert (len(few.rows(1)), len(many.rows(1))) == (8, 16)


def test_the_reward_has_mean_0_and_deviation_1_under_the_reference():
    world = World.draw(4)
    mean = exact.expectation(world.logps, world.reward)
    spread = exact.expectation(world.logps, world.reward.square())
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-12, rtol=0)
    torch.testing.assert_close(spread, torch.ones_like(spread))


def test_the_reward_can_be_scaled():
    torch.testing.assert_close(World.draw(4, reward_scale=2.5).reward, 2.5 * World.draw(4).reward)


def test_another_reference_keeps_the_rewards_deviation():
    world = World.draw(4)
    tilted = world.referred(world.tree.as_next_token_logps(world.logps - world.reward))
    mean = exact.expectation(tilted.logps, tilted.reward)
    spread = (exact.expectation(tilted.logps, tilted.reward.square()) - mean.square()).sqrt()
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-12, rtol=0)
    torch.testing.assert_close(spread, torch.ones_like(spread))


def test_enumerated_rows_weigh_each_pair_by_how_often_it_is_drawn():
    world = World.draw(0, num_prompts=2, depth=2, num_rows=400_000)
    rows, drawn = world.enumerated().rows(0), world.rows(0)
    assert len(rows) == 2 * 6 * 5
    # Draws are of distinct completions, so compare the chance of who wins given the pair.
    for index in range(0, len(rows), 7):
        prompt, pair = rows.prompts[index], rows.completions[index]
        back = ((rows.prompts == prompt) & (rows.completions == pair.flip(0)).all(1)).nonzero().item()
        expected = rows.weights[index] / (rows.weights[index] + rows.weights[back])
        ours = (drawn.prompts == prompt) & (drawn.completions.sort(1).values == pair.sort().values).all(1)
        found = (drawn.completions[ours] == pair).all(1).double().mean()
        assert found.item() == pytest.approx(expected.item(), abs=0.03)


def test_stacked_worlds_are_the_worlds():
    worlds = [World.draw(seed, num_rows=5) for seed in (3, 4)]
    stacked = Worlds.of(worlds, [3, 4])
    assert stacked.reward[1].equal(worlds[1].reward)
    assert stacked.logps[0].equal(worlds[0].logps)
    assert stacked.rows[1].completions.equal(worlds[1].rows(4).completions)
