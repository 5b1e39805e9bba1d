"""What is measured on held-out rows: exact means over them, whatever computes them."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt.data.load import load_rows
from prefopt.engine.logps import Scorer
from prefopt.evaluation.rewards import HeldOut
from tests.models import tiny_model
from tests.peers.dense import token_logps
from tests.peers.rows import even_rows
from tests.peers.runs import REGISTRY, Trained, train_once

MEASURED = ("loss", "reward_accuracy", "reward_margin")


def exact(policy, reference, rows, beta):
    """DPO's loss, accuracy and margin as weighted means over rows, one row at a time through transformers' own."""
    sums = dict.fromkeys(MEASURED, 0.0)
    for row in rows:
        ratios = [
            float(token_logps(policy, row.prompt, own).sum() - token_logps(reference, row.prompt, own).sum())
            for own in row.completions
        ]
        margin = torch.tensor(beta * (ratios[0] - ratios[1]), dtype=torch.float64)
        values = (-torch.nn.functional.logsigmoid(margin), (margin.sign() + 1) / 2, margin)
        for name, value in zip(MEASURED, values, strict=True):
            sums[name] += row.weight * float(value)
    return {name: total / sum(row.weight for row in rows) for name, total in sums.items()}


@pytest.mark.parametrize("budget", [25, 70, 10**6])
@pytest.mark.parametrize("count", [1, 5, 7])
def test_17_means_over_rows_that_no_batch_divides_are_exact(budget, count):
    policy, reference = (tiny_model("gpt2", seed=seed, dtype=torch.float64) for seed in (0, 1))
    rows = even_rows("pairs", count)
    held_out = HeldOut(rows, REGISTRY.loss("dpo", beta=0.3), tokens_per_microbatch=budget)
    held_out.score_reference(Scorer(reference))
    found = held_out.evaluate(Scorer(policy)).as_dict()
    assert {name: found[name] for name in MEASURED} == pytest.approx(exact(policy, reference, rows, 0.3), rel=1e-9)


def test_17_a_run_reports_the_exact_mean_over_its_held_out_rows(train, model_folder, other_model, pair_rows):
    """Seven rows in micro-batches of one or two, before and after training."""
    weighted = [{**row, "weight": weight} for row, weight in zip(pair_rows, (1, 3, 1, 2, 1, 1, 4, 1, 1), strict=True)]
    found = train(
        weighted,
        data={"evaluation": 7},
        loss={"name": "dpo", "beta": 0.3},
        reference={"model": str(other_model)},
        training={"tokens_per_microbatch": 44},
    )
    rows, _ = load_rows(weighted, AutoTokenizer.from_pretrained(model_folder), max_length=64)
    held_out = [row for row in rows if row.name in found.record["data"]["held_out"]]
    assert len(held_out) == 7
    reference = AutoModelForCausalLM.from_pretrained(other_model)
    for when, folder in (("before", model_folder), ("after", found.folder)):
        policy = AutoModelForCausalLM.from_pretrained(folder)
        told = found.record["evaluation"][when]
        assert {name: told[name] for name in MEASURED} == pytest.approx(
            exact(policy, reference, held_out, 0.3), rel=1e-4
        )


def test_17_two_ranks_report_what_one_reports(two_ranks, two_ranks_folder, two_ranks_configs, tmp_path):
    """Seven held-out rows on two ranks, before, after, and every second step."""
    for rank in two_ranks:
        assert rank["train"]["code"] == 0, rank["train"]["told"]
    both = Trained.at(two_ranks_folder / "trained")
    alone = train_once(None, two_ranks_configs["train"], {"output_dir": str(tmp_path / "alone")})
    assert len(both.record["data"]["held_out"]) == 7
    assert both.record["data"]["held_out"] == alone.record["data"]["held_out"]
    reports = [
        [*(run.record["evaluation"][when] for when in ("before", "after")), *evaluated(run)] for run in (both, alone)
    ]
    assert len(reports[0]) >= 4
    for one, other in zip(*reports, strict=True):
        assert one["num_pairs"] == other["num_pairs"] == 7
        for name in MEASURED:
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-4)


def evaluated(run):
    return [step["evaluation"] for step in run.steps if "evaluation" in step]
