from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import prefopt
from prefopt.engine.accumulation import accumulate
from prefopt.engine.logps import Scorer
from prefopt.training.measures import OWN_METRICS, step_measures
from tests.engine.rows import kind_of, random_rows
from tests.models import tiny_model
from tests.training.measured import CASES, NUM_ROWS, measured

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = prefopt.load_registry()


def by_hand(result, reward):
    """Everything from the log-probs of each slot, in plain loops over Python's floats.

    `reward` is (summed policy, summed reference or None, length) -> a number.
    """
    rows, starts = result.assembly.rows, result.assembly.starts
    policy = [piece.double().reshape(len(piece), -1)[:, 0].tolist() for piece in result.policy.split()]
    reference = result.reference and [piece.double().tolist() for piece in result.reference.split()]
    sums = {"chosen": {}, "rejected": {}}
    weights = {"chosen": 0.0, "rejected": 0.0}
    accuracy = margin = pair_weight = squares = tokens = 0.0

    def values(slot):
        total = math.fsum(policy[slot])
        other = reference and math.fsum(reference[slot])
        found = {"reward": reward(total, other, len(policy[slot])), "logps": total, "length": len(policy[slot])}
        return found | ({"log_ratio": total - other} if reference else {})

    def add(side, slot, share):
        weights[side] += share
        for name, value in values(slot).items():
            sums[side][name] = sums[side].get(name, 0.0) + share * value

    for row, start in zip(rows, starts, strict=True):
        slots = list(range(start, start + len(row.completions)))
        for slot in slots:
            tokens += row.weight * len(policy[slot])
            if reference:
                squares += row.weight * sum(
                    (a - b) ** 2 / 2 for a, b in zip(policy[slot], reference[slot], strict=True)
                )
        if row.kind in ("labels", "demonstrations"):
            add("rejected" if row.desirable is False else "chosen", start, row.weight)
            continue
        scores = [1.0, 0.0] if row.kind == "pairs" else [own.score for own in row.completions]
        pairs = [(a, b) for a in range(len(slots)) for b in range(len(slots)) if scores[a] > scores[b]]
        for better, worse in pairs:
            share = row.weight / len(pairs)
            add("chosen", start + better, share)
            add("rejected", start + worse, share)
            gap = values(start + better)["reward"] - values(start + worse)["reward"]
            margin += share * gap
            accuracy += share * (gap > 0)
            pair_weight += share
    found = {f"{side}_{name}": sums[side][name] / weights[side] for side in sums for name in sums[side]}
    if pair_weight:
        found |= {"reward_accuracy": accuracy / pair_weight, "reward_margin": margin / pair_weight}
    return found | ({"kl_per_token": squares / tokens} if reference else {})


REWARDS = {
    "dpo": lambda policy, reference, length: 0.1 * (policy - reference),
    "kto": lambda policy, reference, length: 0.1 * (policy - reference),
    "pl_dpo": lambda policy, reference, length: 0.1 * (policy - reference),
    "simpo": lambda policy, reference, length: prefopt.get_loss("simpo").beta * policy / length,
    "sft": lambda policy, reference, length: policy,
}


@pytest.mark.parametrize("name, kind".split(", "), [case for case in CASES if case[0] in REWARDS])
def test_the_measures_are_those_of_a_plain_loop(name, kind):
    found, result = measured(name, kind, tokens_per_microbatch=40)
    expected = by_hand(result, REWARDS[name])
    assert {key for key in found if key in OWN_METRICS} - {"saturated"} == set(expected)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-12, abs=1e-12), key


def test_a_loss_row_counts_with_the_weight_of_its_data_row():
    found, result = measured("kto", "labels")
    rows, rewards = result.assembly.rows, result.output.metrics["reward"].tolist()
    expected = sum(row.weight * value for row, value in zip(rows, rewards, strict=True)) / sum(
        row.weight for row in rows
    )
    assert found["reward"] == pytest.approx(expected, rel=1e-12)
    assert found["reward"] != pytest.approx(sum(rewards) / len(rewards), rel=1e-3), "weights that change nothing"


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What each of the two ranks measured."""
    out = tmp_path_factory.mktemp("ranks") / "rank"
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    script = [str(Path(__file__).with_name("two_ranks_measure.py")), str(out)]
    done = subprocess.run([*command, *script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(Path(f"{out}{rank}").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_two_ranks_with_uneven_tails_measure_what_one_does(two_ranks, case):
    assert NUM_ROWS % 2
    alone = measured(*case)[0]
    for found in two_ranks:
        assert found[" ".join(case)] == pytest.approx(alone, rel=1e-9, abs=1e-11)


def test_chosen_less_rejected_is_the_margin_where_rankings_are_expanded():
    found, _ = measured("dpo", "rankings")
    assert found["chosen_reward"] - found["rejected_reward"] == pytest.approx(found["reward_margin"], rel=1e-9)


@pytest.mark.parametrize("name", sorted(REGISTRY.losses))
def test_every_loss_is_measured_and_what_is_measured_is_finite(name):
    loss = REGISTRY.loss(name)
    policy, reference = (Scorer(tiny_model("llama", seed=seed)) for seed in (0, 1))
    rows = random_rows(kind_of(loss), 5)
    result = accumulate(policy, reference if loss.needs.reference else None, loss, rows, tokens_per_microbatch=10**6)
    found = step_measures(loss, result)
    assert all(math.isfinite(value) for value in found.values())
    assert ("kl_per_token" in found) == ("chosen_log_ratio" in found) == loss.needs.reference
    assert {"chosen_reward", "chosen_logps", "chosen_length"} <= set(found)


def test_a_batch_without_undesirable_rows_has_no_rejected_side():
    loss = prefopt.get_loss("kto")
    rows = [row for row in random_rows("labels", 9) if row.desirable]
    scorer = Scorer(tiny_model("llama"))
    found = step_measures(loss, accumulate(scorer, scorer, loss, rows, tokens_per_microbatch=10**6))
    assert "chosen_reward" in found
    assert not [name for name in found if name.startswith("rejected") or "accuracy" in name]


def test_a_loss_cannot_take_one_of_our_names():
    class Shadow(REGISTRY.loss_class("dpo")):
        def values(self, batch):
            losses = super().values(batch)
            return prefopt.LossOutput(losses, metrics={"kl_per_token": losses})

    scorer = Scorer(tiny_model("llama"))
    result = accumulate(scorer, scorer, Shadow(), random_rows("pairs", 4), tokens_per_microbatch=10**6)
    with pytest.raises(prefopt.PluginError, match="metric named 'kl_per_token', which every step has; rename it"):
        step_measures(Shadow(), result)


def test_the_estimator_of_the_kl_is_the_true_kl_to_second_order():
    """For two distributions that are close, sampled from either: both KLs, within what third order leaves."""
    torch.manual_seed(0)
    logits = torch.randn(50, dtype=torch.float64)
    policy, reference = (logits + 0.02 * torch.randn(50, dtype=torch.float64)).log_softmax(0), logits.log_softmax(0)
    ratio = policy - reference
    for sampled_from in (policy, reference):
        estimate = float((sampled_from.exp() * ratio.square() / 2).sum())
        for kl in ((policy.exp() * ratio).sum(), -(reference.exp() * ratio).sum()):
            assert estimate == pytest.approx(float(kl), rel=0.05)
