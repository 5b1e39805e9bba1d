from __future__ import annotations

import pytest
import torch

import prefopt
from prefopt.data.row import Row
from prefopt.engine.accumulation import accumulate
from prefopt.engine.logps import Scorer
from prefopt.evaluation.rewards import HeldOut
from tests.engine.rows import kind_of, random_rows
from tests.models import tiny_model

REGISTRY = prefopt.load_registry()


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_a_policy_equal_to_its_reference_ties_on_every_pair(name):
    held_out = HeldOut(random_rows("pairs", 7), REGISTRY.loss(name), tokens_per_microbatch=64)
    held_out.score_reference(Scorer(tiny_model("llama")))
    for policy in (None, Scorer(tiny_model("llama"))):
        report = held_out.evaluate(policy)
        assert (report.accuracy, report.margin, report.num_pairs) == (0.5, 0.0, 7)


@pytest.mark.parametrize("name", sorted(REGISTRY.losses))
@pytest.mark.parametrize("budget", [24, 10**6])
def test_means_over_rows_do_not_depend_on_micro_batches(name, budget):
    loss = REGISTRY.loss(name)
    rows = random_rows(kind_of(loss), 7)
    policy, reference = (Scorer(tiny_model("gpt2", seed=seed, dtype=torch.float64)) for seed in (0, 1))
    held_out = HeldOut(rows, loss, tokens_per_microbatch=budget)
    held_out.score_reference(reference)
    report = held_out.evaluate(policy)
    truth = accumulate(policy, reference, loss, rows, tokens_per_microbatch=10**6)
    assert report.loss == pytest.approx(truth.loss, rel=1e-10)
    assert 0 <= report.accuracy <= 1


def test_a_row_of_weight_two_counts_as_the_row_twice():
    plain, heavy = (
        [Row(row.kind, row.source, row.number, row.prompt, row.completions, weight=weight) for row in rows]
        for rows, weight in ((random_rows("pairs", 3), 1.0), (random_rows("pairs", 3), 2.0))
    )
    twice, weighted = (
        HeldOut(rows, REGISTRY.loss("simpo"), tokens_per_microbatch=64).evaluate(Scorer(tiny_model("llama")))
        for rows in ([*plain, plain[0]], [heavy[0], *plain[1:]])
    )
    assert weighted.accuracy == pytest.approx(twice.accuracy)
    assert weighted.margin == pytest.approx(twice.margin, rel=1e-6)


def test_the_pairs_of_a_ranking_are_one_trial():
    rows = random_rows("rankings", 3, num_completions=6)
    report = HeldOut(rows, REGISTRY.loss("simpo"), tokens_per_microbatch=64).evaluate(Scorer(tiny_model("llama")))
    low, high = report.interval
    assert report.num_pairs == 3 * 15
    assert high - low > 0.5


def test_a_margin_that_is_not_finite_names_its_rows():
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(prefopt.NonFiniteLossError, match="random row 1"):
        HeldOut(random_rows("pairs", 3), REGISTRY.loss("simpo"), tokens_per_microbatch=64).evaluate(Scorer(model))


def test_rows_without_pairs_report_a_loss_alone():
    held_out = HeldOut(random_rows("labels", 5), REGISTRY.loss("kto"), tokens_per_microbatch=64)
    held_out.score_reference(Scorer(tiny_model("llama")))
    report = held_out.evaluate(Scorer(tiny_model("llama", seed=1))).as_dict()
    assert set(report) == {"loss", "num_pairs"}


def test_rankings_count_every_pair_they_imply():
    held_out = HeldOut(random_rows("rankings", 3), REGISTRY.loss("simpo"), tokens_per_microbatch=64)
    assert held_out.evaluate(Scorer(tiny_model("llama"))).num_pairs == 3 * 6
