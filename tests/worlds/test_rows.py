import pytest
import torch

from prefopt.errors import DataError
from prefopt.worlds import Rows


def rows(kind, prompts, completions, **tensors):
    return Rows(kind, torch.tensor(prompts), torch.tensor(completions), **tensors)


PAIRS = rows("pairs", [0, 1], [[3, 4], [5, 6]], scores=torch.tensor([[2.0, 1.0], [4.0, 3.0]]))


def test_rows_of_an_accepted_kind_stay_as_they_are():
    assert PAIRS.read_as({"pairs", "demonstrations"}) is PAIRS


def test_a_ranking_becomes_all_its_pairs_best_first():
    ranking = rows("rankings", [7], [[1, 2, 3]], scores=torch.tensor([[3.0, 2.0, 1.0]]), weights=torch.tensor([0.5]))
    pairs = ranking.read_as({"pairs"})
    assert pairs.completions.tolist() == [[1, 2], [1, 3], [2, 3]]
    assert pairs.scores.tolist() == [[3.0, 2.0], [3.0, 1.0], [2.0, 1.0]]
    assert pairs.prompts.tolist() == [7, 7, 7]
    assert pairs.weights.tolist() == [0.5, 0.5, 0.5]


def test_a_pair_splits_into_a_thumb_up_and_a_thumb_down():
    labels = PAIRS.read_as({"labels"})
    assert labels.completions[:, 0].tolist() == [3, 4, 5, 6]
    assert labels.desirable.tolist() == [True, False, True, False]
    assert labels.prompts.tolist() == [0, 0, 1, 1]


def test_a_pair_is_a_ranking_of_two_and_its_chosen_completion_a_demonstration():
    assert PAIRS.read_as({"rankings"}).completions.tolist() == PAIRS.completions.tolist()
    assert PAIRS.read_as({"demonstrations"}).completions.tolist() == [[3], [5]]


def test_labels_of_one_prompt_are_paired_while_there_are_both():
    labels = rows(
        "labels",
        [0, 0, 0, 1, 1, 2],
        [[1], [2], [3], [4], [5], [6]],
        desirable=torch.tensor([True, False, False, False, True, True]),
    )
    assert labels.read_as({"pairs"}).prompts.tolist() == [0, 1]
    assert labels.read_as({"pairs"}).completions.tolist() == [[1, 2], [5, 4]]
    assert labels.read_as({"rankings"}).kind == "rankings"


def test_labels_that_make_no_pair_are_an_error():
    one_sided = rows("labels", [0, 1], [[1], [2]], desirable=torch.tensor([True, False]))
    with pytest.raises(DataError, match="no prompt has a desirable and an undesirable completion"):
        one_sided.read_as({"pairs"})


def test_demonstrations_make_no_pairs():
    with pytest.raises(DataError, match="make no pairs"):
        rows("demonstrations", [0], [[1]]).read_as({"pairs"})


def test_taking_rows_takes_every_column():
    taken = PAIRS.take(torch.tensor([1]))
    assert (taken.prompts.tolist(), taken.completions.tolist(), taken.scores.tolist()) == ([1], [[5, 6]], [[4.0, 3.0]])
