"""What makes token unlikelihood what it is: each rejected token is pushed away by its own odds."""

import math

import pytest
import torch

import prefopt

REGISTRY = prefopt.load_registry()


def batch(logps, lengths=None, dtype=torch.float64):
    """One pair for each length, of these rejected tokens; the chosen completions have 4 tokens and -6 nats."""
    lengths = [len(logps)] if lengths is None else lengths
    policy = torch.tensor(logps, dtype=dtype, requires_grad=True)
    rejected = prefopt.Tokens(policy, torch.tensor([0, *lengths]).cumsum(0))
    count = len(lengths)
    chosen = prefopt.Tokens(torch.full((4 * count,), -1.5, dtype=dtype), torch.arange(count + 1) * 4)
    return prefopt.PreferenceBatch.from_pairs(
        policy_chosen=torch.full((count,), -6.0, dtype=dtype),
        policy_rejected=rejected.sum(policy).detach(),
        chosen_lengths=chosen.lengths,
        rejected_lengths=rejected.lengths,
        chosen_tokens=chosen,
        rejected_tokens=rejected,
    )


def test_each_rejected_token_costs_the_log_of_one_less_its_probability():
    rows = batch([math.log(0.5), math.log(0.75), math.log(0.2)], lengths=[2, 1])
    losses = REGISTRY.loss("unlikelihood_token", alpha=0.5)(rows).losses
    assert losses.tolist() == pytest.approx([6 + 0.5 * math.log(8), 6 - 0.5 * math.log(0.8)], rel=1e-12)


def test_gradient_is_the_odds_of_the_token():
    rows = batch([math.log(0.5), math.log(0.75)])
    gradient = REGISTRY.loss("unlikelihood_token", alpha=0.5).gradient(rows)
    assert gradient.rejected_tokens.tolist() == pytest.approx([0.5, 1.5], rel=1e-12)
    assert gradient.policy_chosen.tolist() == [-1]
    assert gradient.policy_rejected is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("certain", [0.0, -0.0])
def test_certain_token_is_plus_infinity_and_leaves_its_neighbours_alone(certain, dtype):
    rows = batch([certain, math.log(0.5), -1e4], dtype=dtype)
    loss = REGISTRY.loss("unlikelihood_token")
    output = loss(rows)
    output.losses.sum().backward()
    assert output.losses.tolist() == [math.inf]
    for slopes in (rows.rejected.tokens.policy.grad, loss.gradient(rows).rejected_tokens):
        assert slopes[0].item() == math.inf
        assert slopes[1:].tolist() == pytest.approx([1, 0], rel=2e-2)


def test_value_is_exact_where_the_token_is_nearly_impossible_or_nearly_certain():
    """log(1 - p) from 1 - p has no digit left at either end."""
    logps = [-40.0, -700.0, -1e-12]
    rows = batch(logps, lengths=[1, 1, 1])
    values, _ = REGISTRY.loss("unlikelihood_token")(rows).terms["unlikelihood"]
    expected = [math.exp(-40), math.exp(-700), -math.log(1e-12)]
    assert values.tolist() == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize(("nll", "value", "normaliser"), [("sum", 6, 1), ("sequence", 1.5, 1), ("token", 6, 4)])
def test_nll_says_how_the_likelihood_is_reduced_and_leaves_the_penalty_per_pair(nll, value, normaliser):
    loss = REGISTRY.loss("unlikelihood_token", nll=nll)
    terms = {name: [part.item() for part in term] for name, term in loss(batch([math.log(0.5)])).terms.items()}
    assert terms["nll"] == [value, normaliser]
    assert terms["unlikelihood"] == pytest.approx([math.log(2), 1], rel=1e-12)
