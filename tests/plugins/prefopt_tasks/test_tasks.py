"""Each built-in task is the regime that it says it is."""

import pytest
import torch

import prefopt
from prefopt.worlds import World, exact

REGISTRY = prefopt.load_registry()
TASKS = sorted(set(REGISTRY.tasks) - {"sentiment"})
SEED = 7


def built(name, **knobs):
    task = REGISTRY.task(name)
    return task.build(SEED, **task.settings(knobs))


def better(world, rows):
    """[B] whether the first completion of a pair has the higher true reward."""
    reward = world.reward[rows.prompts[:, None], rows.completions]
    return reward[:, 0] > reward[:, 1]


@pytest.mark.parametrize("name", TASKS)
def test_every_task_builds_a_world_with_the_rows_it_promises(name):
    world = built(name)
    assert isinstance(world, World)
    assert len(world.rows(SEED)) == world.num_rows
    chance = world.logps.exp().sum(-1)
    torch.testing.assert_close(chance, torch.ones_like(chance))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_a_function_of_its_seed(name):
    first, again = built(name), built(name)
    assert first.reward.equal(again.reward)
    assert first.rows(SEED).completions.equal(again.rows(SEED).completions)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_takes_the_size_of_its_worlds_and_says_what_it_is_for(name):
    world = built(name, num_prompts=2, depth=3, num_rows=16)
    assert world.reward.shape == (2, 14)
    assert REGISTRY.tasks[name].__doc__.strip()


def test_label_noise_turns_its_share_of_pairs():
    clean, noisy = built("label_noise", noise=0.0, num_rows=50_000), built("label_noise", noise=0.4, num_rows=50_000)
    right, wrong = better(clean, clean.rows(SEED)).double().mean(), better(noisy, noisy.rows(SEED)).double().mean()
    assert wrong.item() == pytest.approx(0.6 * right.item() + 0.4 * (1 - right.item()), abs=0.01)


def test_sharp_preferences_hardly_contradict_the_reward():
    world = built("near_deterministic", num_rows=20_000)
    assert better(world, world.rows(SEED)).double().mean() > 0.93
    assert better(built("bradley_terry"), built("bradley_terry").rows(SEED)).double().mean() < 0.8


def test_a_length_bias_makes_longer_completions_win_and_leaves_the_reward_alone():
    world, fair = built("length_bias", num_rows=20_000), built("length_bias", bias=0.0, num_rows=20_000)
    assert world.reward.equal(fair.reward)
    lengths = [own.tree.lengths[own.rows(SEED).completions].double().diff(dim=1).mean() for own in (world, fair)]
    assert lengths[0] < lengths[1] - 0.3


def test_a_weak_reference_has_little_mass_on_good_completions():
    weak, usual = built("weak_reference"), built("weak_reference", tilt=0.0)
    good = usual.reward > 1.0
    assert (weak.logps.exp() * good).sum() < 0.5 * (usual.logps.exp() * good).sum()


def test_scarce_pairs_have_fewer_rows_of_the_same_world():
    assert built("scarce_pairs").num_rows == 128
    assert built("scarce_pairs").reward.equal(built("bradley_terry").reward)


def test_imbalanced_labels_have_their_share_of_thumbs_up():
    rows = built("imbalanced_labels", desirable=0.25).rows(SEED)
    assert rows.kind == "labels"
    assert rows.desirable.double().mean() == 0.25


def test_off_support_pairs_come_from_elsewhere():
    world = built("off_support", num_rows=20_000)
    rows = world.rows(SEED)
    usual = built("bradley_terry", num_rows=20_000)
    surprise = [
        -own.logps[r.prompts, r.completions[:, 0]].mean() for own, r in ((world, rows), (usual, usual.rows(SEED)))
    ]
    assert surprise[0] > surprise[1] + 0.5


def test_rankings_have_four_completions_and_about_as_many_pairs():
    rows = built("rankings").rows(SEED)
    assert (rows.kind, rows.completions.shape[1]) == ("rankings", 4)
    assert 1024 <= len(rows.as_pairs()) < 1024 + 6


def test_intransitive_preferences_go_round_in_circles():
    world = built("intransitive")
    beats = world.preference[0] > 0.5
    circles = torch.einsum("ij,jk,ki->", *[beats.double()] * 3)
    assert circles > 0
    straight = built("intransitive", cycles=0.0).preference[0] > 0.5
    assert torch.einsum("ij,jk,ki->", *[straight.double()] * 3) == 0
    torch.testing.assert_close(world.preference + world.preference.mT, torch.ones_like(world.preference))


def test_the_reward_of_an_intransitive_task_is_the_win_rate_against_the_reference():
    world = built("intransitive")
    logps = exact.optimum(world.logps, world.reward, 0.1)
    wins = torch.einsum("pi,pij,pj->p", logps.exp(), world.preference, world.logps.exp())
    torch.testing.assert_close(exact.expectation(logps, world.reward), wins)
