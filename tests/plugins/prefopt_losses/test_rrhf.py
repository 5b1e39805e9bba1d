"""What makes RRHF RRHF: a hinge without margin for each wrongly ordered pair, and the best completion learned."""

import pytest
import torch

import prefopt

REGISTRY = prefopt.load_registry()


def rankings(policy, scores, lengths=None):
    policy, scores = torch.tensor(policy, dtype=torch.float64), torch.tensor(scores, dtype=torch.float64)
    lengths = torch.ones_like(policy, dtype=torch.long) if lengths is None else torch.tensor(lengths)
    return prefopt.PreferenceBatch.from_rankings(policy=policy, lengths=lengths, scores=scores)


def rank(batch, **hyperparameters):
    return REGISTRY.loss("rrhf", **hyperparameters)(batch).terms["rank"][0].tolist()


def test_ranking_in_order_leaves_the_nll_of_the_best_alone():
    batch = rankings([[-3.0, -1.0, -2.0]], [[1.0, 3.0, 2.0]])
    assert REGISTRY.loss("rrhf")(batch).losses.tolist() == [1]
    assert REGISTRY.loss("rrhf").gradient(batch).policy.tolist() == [[0, -1, 0]]


def test_every_wrongly_ordered_pair_adds_its_excess():
    """Scores 3 2 1 but p -4 -1 -2: the pairs 1-2 and 1-3 are wrong, by 3 and by 2."""
    batch = rankings([[-4.0, -1.0, -2.0]], [[3.0, 2.0, 1.0]])
    assert rank(batch) == [5]
    assert rank(batch, rank_weight=100.0) == [500]
    assert REGISTRY.loss("rrhf").gradient(batch).policy.tolist() == [[-2 - 1, 1, 1]]


def test_pair_of_equal_scores_is_skipped():
    assert rank(rankings([[-4.0, -1.0, -2.0]], [[1.0, 1.0, 1.0]])) == [0]
    assert rank(rankings([[-4.0, -1.0, -2.0]], [[2.0, 2.0, 1.0]])) == [2]


def test_length_penalty_is_the_exponent_of_the_length():
    """Per token the longer is the likelier, in sum the less likely."""
    batch = rankings([[-4.0, -6.0]], [[2.0, 1.0]], [[2, 6]])
    assert rank(batch) == [-1 + 2]
    assert rank(batch, length_penalty=0.0) == [0]
    assert rank(batch, length_penalty=2.0) == pytest.approx([-6 / 36 + 4 / 4], rel=1e-12)


@pytest.mark.parametrize(("nll", "value", "normaliser"), [("sum", 6, 1), ("sequence", 2, 1), ("token", 6, 3)])
def test_nll_is_that_of_the_best_completion(nll, value, normaliser):
    batch = rankings([[-8.0, -6.0]], [[1.0, 2.0]], [[2, 3]])
    values, normalisers = REGISTRY.loss("rrhf", nll=nll)(batch).terms["nll"]
    assert (values.item(), normalisers.item()) == (value, normaliser)


@pytest.mark.parametrize("nll", ["sum", "sequence", "token"])
@pytest.mark.parametrize("garbage", [0.0, -1e30])
def test_absent_slot_does_not_count(nll, garbage):
    loss = REGISTRY.loss("rrhf", nll=nll)
    whole = rankings([[-8.0, garbage, -6.0]], [[2.0, 9.0, 1.0]], [[2, 0, 3]])
    policy = whole.completions.policy.requires_grad_()
    output = loss(whole)
    assert output.losses.equal(loss(rankings([[-8.0, -6.0]], [[2.0, 1.0]], [[2, 3]])).losses)
    (slope,) = torch.autograd.grad(output.losses.sum(), policy)
    assert slope.equal(loss.gradient(whole).policy)
    assert slope[0, 1] == 0
