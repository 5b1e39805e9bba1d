from __future__ import annotations

import math

import pytest
import torch

import prefopt
from prefopt.engine.assembly import Assembly
from prefopt.engine.logps import TokenLogps
from prefopt.training.saturation import gradient_sizes, saturated_rows
from prefopt.weighted import WeightedSum
from tests.engine.rows import kind_of, random_rows

REGISTRY = prefopt.load_registry()


def of_pairs(margins, *, lengths=(2, 3), reference=-30.0):
    """Rows whose chosen and rejected log-ratios differ by `margins`: assembly, policy, reference."""
    rows = random_rows("pairs", len(margins))
    policy, length = [], []
    for margin in margins:
        for side, count in zip((margin / 2, -margin / 2), lengths, strict=True):
            policy += [(reference + side) / count] * count
            length.append(count)
    still = [reference / count for _ in margins for count in lengths for _ in range(count)]
    policy, still = (TokenLogps(torch.tensor(each, dtype=torch.float64), tuple(length)) for each in (policy, still))
    return Assembly.of(rows, prefopt.get_loss("dpo")), policy, still


def logistic(x):
    return 1 / (1 + math.exp(-x))


def test_the_size_of_the_gradient_of_dpo():
    """beta * sigmoid(-beta * margin) on every token of both sides."""
    margins = [-3.0, 0.0, 40.0]
    sizes = gradient_sizes(prefopt.get_loss("dpo"), *of_pairs(margins))
    expected = [0.1 * logistic(-0.1 * margin) * math.sqrt(2 + 3) for margin in margins]
    assert sizes.tolist() == pytest.approx(expected, rel=1e-12)


def test_a_pair_of_dpo_saturates_where_the_sigmoid_is_at_half_a_per_cent():
    edge = math.log(0.995 / 0.005) / 0.1  # sigmoid(-0.1 * edge) = 0.01 * sigmoid(0)
    found = saturated_rows(prefopt.get_loss("dpo"), *of_pairs([0.0, edge - 0.01, edge + 0.01, -edge - 5]))
    assert found.tolist() == [False, False, True, False]


def test_a_pair_of_simpo_saturates_where_it_pulls_a_hundredth_of_the_exchanged_pair():
    loss = prefopt.get_loss("simpo")
    # value -log sigmoid(x - gamma) with x = beta * (mean chosen - mean rejected); exchanged: x -> -x
    low, high = 0.0, 100.0
    for _ in range(80):
        x = (low + high) / 2
        low, high = (x, high) if logistic(loss.gamma - x) > 0.01 * logistic(loss.gamma + x) else (low, x)
    edge = low * 2 / loss.beta  # of the difference of the sums, two tokens a side
    assembly, policy, _ = of_pairs([0.0, edge - 0.01, edge + 0.01], lengths=(2, 2), reference=-200.0)
    assert saturated_rows(loss, assembly, policy, None).tolist() == [False, False, True]


def test_ipo_is_saturated_on_its_target_and_not_beyond():
    loss = prefopt.get_loss("ipo")
    target = 1 / (2 * loss.tau)
    margins = [0.0, target * 0.98, target * 0.995, target, target * 1.005, target * 1.02]
    found = saturated_rows(loss, *of_pairs(margins))
    assert found.tolist() == [False, False, True, True, True, False]


def test_labels_without_a_reference_are_held_against_the_other_label():
    class Fit(prefopt.LabelLoss):
        """Logistic regression on the mean log-prob plus 3."""

        name = "fit"
        needs = prefopt.Needs(rows={"labels"})

        def values(self, batch):
            score = batch.completions.mean_logps + 3
            return torch.where(batch.desirable, -score, score).exp().log1p()

        def reward(self, completions):
            return completions.mean_logps

    rows = random_rows("labels", 3)
    tokens = TokenLogps(torch.tensor([-0.1, -3.0, -9.0], dtype=torch.float64), (1, 1, 1))
    assembly = Assembly.of(rows, Fit())
    expected = []
    for row, logp in zip(rows, tokens.values.tolist(), strict=True):
        score = (logp + 3) if row.desirable else -(logp + 3)
        expected.append(logistic(-score) < 0.01 * logistic(score))
    assert saturated_rows(Fit(), assembly, tokens, None).tolist() == expected


def test_a_weighted_sum_keeps_pulling_while_one_part_does():
    dpo, sft = prefopt.get_loss("dpo"), prefopt.get_loss("sft")
    rows = of_pairs([90.0])
    assert saturated_rows(WeightedSum(((1.0, dpo),)), *rows).tolist() == [True]
    assert saturated_rows(WeightedSum(((1.0, dpo), (0.2, sft))), *rows).tolist() == [False]


def test_what_no_baseline_exists_for_has_none():
    rows = random_rows("demonstrations", 2)
    loss = prefopt.get_loss("sft")
    assembly = Assembly.of(rows, loss)
    lengths = tuple(completion.num_scored for _, completion in assembly.slots)
    assert saturated_rows(loss, assembly, TokenLogps(-torch.ones(sum(lengths)), lengths), None) is None


@pytest.mark.parametrize("name", sorted(REGISTRY.losses))
def test_at_the_reference_no_row_of_any_loss_is_saturated(name):
    loss = REGISTRY.loss(name)
    if loss.needs.distribution is not None:
        pytest.skip("reads distributions, which made-up log-probs have none of")
    assembly = Assembly.of(random_rows(kind_of(loss), 6), loss)
    lengths = tuple(completion.num_scored for _, completion in assembly.slots)
    torch.manual_seed(0)
    tokens = TokenLogps(-torch.rand(sum(lengths), dtype=torch.float64) - 0.1, lengths)
    found = saturated_rows(loss, assembly, tokens, tokens if loss.needs.reference else None)
    assert found is None or not found.any()
