import itertools

import numpy as np
import pytest
import torch

from prefopt.errors import DataError
from prefopt.worlds import World, draw_rows, judge_pairs, label_rows

WORLD = World.draw(0, num_prompts=2, num_tokens=2, depth=2)  # 6 completions
NUM = 200_000


def generator():
    return np.random.default_rng(5)


def drawn(**settings):
    return draw_rows(generator(), NUM, WORLD.logps, WORLD.reward, **settings)


def test_pairs_are_preferred_by_the_model_of_bradley_and_terry():
    rows = drawn()
    for first, second in itertools.combinations(range(6), 2):
        ours = (rows.prompts == 0) & ((rows.completions == first).any(1)) & ((rows.completions == second).any(1))
        won = (rows.completions[ours][:, 0] == first).double()
        expected = (WORLD.reward[0, first] - WORLD.reward[0, second]).sigmoid()
        assert won.mean().item() == pytest.approx(expected.item(), abs=4 * 0.5 / len(won) ** 0.5)


def test_pairs_are_distinct_and_written_by_the_behaviour_policy():
    rows = drawn()
    assert (rows.completions[:, 0] != rows.completions[:, 1]).all()
    chance = WORLD.logps[0].exp()
    own = rows.completions[rows.prompts == 0]
    for completion in range(6):
        # drawn first, or second after any other
        inclusion = chance[completion] * (
            1 + sum(chance[other] / (1 - chance[other]) for other in range(6) if other != completion)
        )
        found = (own == completion).any(1).double().mean()
        assert found.item() == pytest.approx(inclusion.item(), abs=0.006)


def test_more_different_completions_than_there_are_is_an_error():
    with pytest.raises(DataError, match="a row compares 7 different completions, and a prompt of this world has 6"):
        drawn(num_completions=7)


def test_scores_fall_and_differ_as_the_model_says():
    scores = drawn(num_completions=4).scores
    assert (scores.diff(dim=1) < 0).all()


def test_rankings_follow_the_model_of_plackett_and_luce():
    rows = drawn(num_completions=3)
    three = torch.tensor([0, 3, 5])
    ours = rows.completions[(rows.prompts == 1) & torch.isin(rows.completions, three).all(1)]
    strength = WORLD.reward[1, three].exp()
    for order in itertools.permutations(range(3)):
        a, b, _ = (strength[place] for place in order)
        expected = a / strength.sum() * b / (strength.sum() - a)
        found = (ours == three[list(order)]).all(1).double().mean()
        assert found.item() == pytest.approx(expected.item(), abs=4 * 0.5 / len(ours) ** 0.5)


def test_a_share_of_rows_is_turned_upside_down_with_the_scores_kept_falling():
    straight, turned = drawn(), drawn(flipped=0.3)
    differ = (straight.completions != turned.completions).any(1)
    assert differ.double().mean().item() == pytest.approx(0.3, abs=0.005)
    assert (straight.completions[differ] == turned.completions[differ].flip(1)).all()
    assert (turned.scores.diff(dim=1) < 0).all()


def test_judged_pairs_follow_any_table_of_preferences():
    preference = torch.full((2, 6, 6), 0.5, dtype=torch.float64)
    preference[:, 1, 2], preference[:, 2, 1] = 0.9, 0.1
    rows = judge_pairs(generator(), NUM, WORLD.logps, preference)
    ours = (rows.completions == 1).any(1) & (rows.completions == 2).any(1)
    assert (rows.completions[ours][:, 0] == 1).double().mean().item() == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("desirable", [0.1, 0.5, 0.9])
def test_labels_have_the_share_of_thumbs_up_and_favour_the_better(desirable):
    rows = label_rows(generator(), 20_000, WORLD.logps, WORLD.reward, desirable=desirable)
    assert rows.desirable.double().mean().item() == desirable
    utility = WORLD.reward[rows.prompts, rows.completions[:, 0]]
    # the log-odds of a thumb up rise by one for each nat of reward
    from scipy.optimize import minimize_scalar

    def nll(threshold):
        margin = utility - threshold
        return -torch.where(rows.desirable, margin.sigmoid().log(), (-margin).sigmoid().log()).sum().item()

    threshold = minimize_scalar(nll, bounds=(-6, 6), method="bounded").x
    fitted = (utility - threshold).sigmoid()
    for low, high in ((-9, -0.5), (-0.5, 0.5), (0.5, 9)):
        taken = (utility > low) & (utility <= high)
        found, expected = rows.desirable[taken].double().mean().item(), fitted[taken].mean().item()
        assert found == pytest.approx(expected, abs=0.03)


def test_at_least_one_label_of_each_kind_is_there():
    rows = label_rows(generator(), 5, WORLD.logps, WORLD.reward, desirable=0.001)
    assert rows.desirable.sum() == 1
