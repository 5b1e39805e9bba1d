from __future__ import annotations

import pytest

import prefopt
from prefopt.config import TrainingConfig
from prefopt.data.trees import grow_rows
from prefopt.engine.accumulation import accumulate
from prefopt.engine.logps import Scorer
from prefopt.engine.ranks import ALONE, Ranks
from prefopt.plan.workload import seen_pairs, workload
from prefopt.training.batches import ShuffledBatches
from tests.engine.rows import random_rows
from tests.models import tiny_model

TRAINING = TrainingConfig(batch_size=4, tokens_per_microbatch=64, epochs=2)


def test_tokens_are_those_of_the_layouts_of_an_epoch():
    rows, scorer = random_rows("pairs", 10), Scorer(tiny_model("llama"))
    found = workload(rows, prefopt.get_loss("dpo"), TRAINING, scorer, ALONE)
    assert (found.num_steps, found.steps, found.rows, found.repeats) == (6, 3, 10, 2)
    assert found.prompt_tokens == sum(len(row.prompt) for row in rows)
    assert found.scored == sum(own.num_scored for row in rows for own in row.completions)
    assert found.tokens <= found.plain_tokens
    assert (
        max(scorer.lay_out(part).num_tokens for step in found.replayed for part in step)
        == scorer.lay_out(found.largest).num_tokens
    )


def test_a_pair_counts_its_prompt_once():
    (row,) = random_rows("pairs", 1)
    found = workload([row], prefopt.get_loss("dpo"), TRAINING, Scorer(tiny_model("llama")), ALONE)
    lengths = [len(own.ids) - 1 for own in row.completions]
    assert found.tokens == len(row.prompt) + sum(lengths)
    assert found.plain_tokens == 2 * len(row.prompt) + sum(lengths)


@pytest.mark.parametrize("seed", range(3))
def test_pairs_of_positions_are_those_the_attention_takes(seed):
    scorer = Scorer(tiny_model("llama"))
    trees = grow_rows(random_rows("rankings", 4, seed=seed))
    taken = 0
    for segments in scorer.lay_out(trees).segments.trees:
        prompt, *branches = segments
        taken += prompt**2 + sum(own * (prompt + own) for own in branches)
    assert sum(map(seen_pairs, trees)) == taken


def test_processes_share_the_micro_batches():
    rows, scorer = random_rows("pairs", 8), Scorer(tiny_model("llama"))
    found = workload(rows, prefopt.get_loss("dpo"), TRAINING, scorer, Ranks(0, 2))
    assert all(len(step) % 2 == 0 for step in found.replayed)


@pytest.mark.parametrize("loss", ["kto", "bco_pair", "dpo"])
def test_tokens_with_gradient_are_those_the_engine_counts(loss):
    rows, policy = random_rows("pairs" if loss != "kto" else "labels", 8), Scorer(tiny_model("llama"))
    loss, training = prefopt.get_loss(loss), TRAINING.model_copy(update={"epochs": 1.0, "tokens_per_microbatch": 24})
    (first, second) = ShuffledBatches(rows, training).after(0)
    steps = [
        accumulate(policy, Scorer(tiny_model("llama", seed=1)), loss, batch, tokens_per_microbatch=24)
        for batch in (first, second)
    ]
    found = workload(rows, loss, training, policy, ALONE)
    assert found.trained_tokens == sum(step.num_tokens for step in steps)
    assert found.looked_tokens == (found.tokens if loss.needs.coupled else 0)
