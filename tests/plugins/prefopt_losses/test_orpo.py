"""What makes ORPO ORPO: an NLL in three reductions beside a ratio of odds."""

import math

import pytest
import torch
from truth import REGISTRY

from prefopt.testing import Case

NLL = pytest.mark.parametrize("nll", ["sequence", "token", "sum"])


def pairs(chosen, rejected, lengths=(1, 1), dtype=torch.float64, **hyperparameters):
    inputs = {
        "policy_chosen": torch.tensor(chosen, dtype=dtype),
        "policy_rejected": torch.tensor(rejected, dtype=dtype),
        "chosen_lengths": torch.full((len(chosen),), lengths[0]),
        "rejected_lengths": torch.full((len(chosen),), lengths[1]),
    }
    return Case(REGISTRY.loss("orpo", **hyperparameters), "pairs", inputs)


def terms(nll):
    case = pairs([-8.0, -2.0], [-15.0, -15.0], (4, 5), nll=nll, lambda_=0.5)
    return {
        name: (values.tolist(), normaliser.tolist())
        for name, (values, normaliser) in case.loss(case.batch()).terms.items()
    }


def odds_ratio(chosen_mean, rejected_mean):
    chosen, rejected = (math.exp(mean) / (1 - math.exp(mean)) for mean in (chosen_mean, rejected_mean))
    return 0.5 * math.log(1 + rejected / chosen)


@pytest.mark.parametrize(
    ("nll", "values", "normaliser"),
    [("sequence", [2.0, 0.5], [1, 1]), ("token", [8.0, 2.0], [4, 4]), ("sum", [8.0, 2.0], [1, 1])],
)
def test_nll_term_carries_the_normaliser_of_its_reduction(nll, values, normaliser):
    assert terms(nll)["nll"] == (values, normaliser)


@NLL
def test_odds_ratio_term_is_a_mean_over_pairs(nll):
    values, normaliser = terms(nll)["odds_ratio"]
    assert values == pytest.approx([odds_ratio(-2, -3), odds_ratio(-0.5, -3)], rel=1e-12)
    assert normaliser == [1, 1]


@pytest.mark.parametrize("mean", [-1e-12, -1e-3, -1.0, -700.0])
def test_odds_ratio_of_equal_completions_is_ln_2(mean):
    case = pairs([mean], [mean], lambda_=1.0)
    assert case.output().losses.item() + mean == pytest.approx(math.log(2), rel=1e-9)
    # p / (1 - p) has the logarithmic slope 1 / (1 - p); both sides share the tie evenly.
    slope = 0.5 / -math.expm1(mean)
    gradient = case.autograd()
    assert gradient["policy_chosen"].item() == pytest.approx(-1 - slope, rel=1e-9)
    assert gradient["policy_rejected"].item() == pytest.approx(slope, rel=1e-9)


@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize("chosen", [-3.0, 0.0, -0.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_certain_rejected_completion_costs_and_pushes_infinitely(chosen, zero, dtype):
    case = pairs([chosen], [zero], dtype=dtype)
    assert case.output().losses.item() == math.inf
    for gradient in (case.autograd(), case.closed_form()):
        assert gradient["policy_rejected"].item() == math.inf
        assert -math.inf < gradient["policy_chosen"].item() < 0


def test_certain_chosen_completion_costs_nothing():
    assert pairs([0.0], [-3.0]).output().losses.item() == 0


def test_reward_is_the_log_odds_of_the_mean_probability():
    case = pairs([-8.0], [-0.0], (4, 5))
    metrics = case.loss(case.batch()).metrics
    assert metrics["chosen_reward"].item() == pytest.approx(math.log(math.exp(-2) / (1 - math.exp(-2))), rel=1e-12)
    assert metrics["rejected_reward"].item() == math.inf
