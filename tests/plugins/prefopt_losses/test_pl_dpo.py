"""What makes Plackett-Luce DPO what it is: the whole ranking counts, and of the scores only their order."""

import math

import pytest
import torch

import prefopt

REGISTRY = prefopt.load_registry()
NAN, INF = float("nan"), float("inf")


def rankings(log_ratios, scores, lengths=None, garbage=0.0):
    """Rankings with these log-ratios; a slot of length 0 holds `garbage`."""
    log_ratios, scores = torch.tensor(log_ratios, dtype=torch.float64), torch.tensor(scores, dtype=torch.float64)
    lengths = torch.ones_like(log_ratios, dtype=torch.long) if lengths is None else torch.tensor(lengths)
    policy = torch.where(lengths > 0, log_ratios - 50, garbage)
    reference = torch.full_like(policy, -50)
    return prefopt.PreferenceBatch.from_rankings(policy=policy, reference=reference, lengths=lengths, scores=scores)


def losses(batch, **hyperparameters):
    return REGISTRY.loss("pl_dpo", **hyperparameters)(batch).losses.tolist()


@pytest.mark.parametrize("num_completions", [2, 3, 5])
def test_every_ranking_is_equally_likely_where_policy_equals_reference(num_completions):
    batch = rankings([[0.0] * num_completions], [list(range(num_completions))])
    assert losses(batch) == pytest.approx([math.log(math.factorial(num_completions))], rel=1e-12)


def test_completions_are_drawn_one_after_the_other():
    """Best first: 3 of 3 + 2 + 5, then 2 of 2 + 5."""
    batch = rankings([[math.log(2), math.log(5), math.log(3)]], [[0.5, 0.1, 0.9]])
    assert losses(batch, beta=1.0) == pytest.approx([-math.log(3 / 10 * 2 / 7)], rel=1e-12)


def test_only_the_order_of_the_scores_counts():
    ratios = [[1.0, -2.0, 0.5]]
    assert losses(rankings(ratios, [[3.0, 1.0, 2.0]])) == losses(rankings(ratios, [[1e6, -4.0, -3.9]]))
    assert losses(rankings(ratios, [[3.0, 1.0, 2.0]])) != losses(rankings(ratios, [[3.0, 2.0, 1.0]]))


def test_ties_are_refused_by_position():
    scores = [[2.0, 1.0, 0.0], [1.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 1.0, 0.0]]
    with pytest.raises(ValueError, match=r"^loss pl_dpo: completions with equal scores at batch position 1, 3; "):
        losses(rankings([[0.0] * 3] * 4, scores))


@pytest.mark.parametrize("garbage", [0.0, 1e30, -INF])
@pytest.mark.parametrize("score", [2.0, 9.0, NAN])
def test_absent_slot_does_not_count(garbage, score):
    whole = rankings([[1.0, -2.0, 0.0]], [[2.0, 1.0, score]], [[3, 4, 0]], garbage)
    assert losses(whole) == losses(rankings([[1.0, -2.0]], [[2.0, 1.0]]))
    assert REGISTRY.loss("pl_dpo").gradient(whole).policy[0, 2] == 0


def test_lone_completion_has_loss_zero():
    batch = rankings([[1.0, 0.0]], [[2.0, 2.0]], [[3, 0]])
    assert losses(batch) == [0]
    assert REGISTRY.loss("pl_dpo").gradient(batch).policy.tolist() == [[0, 0]]
