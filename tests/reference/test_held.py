from __future__ import annotations

import pytest
import torch

import prefopt
from prefopt.data.row import Completion
from prefopt.data.trees import Tree
from prefopt.engine.assembly import Assembly
from prefopt.engine.logps import Scorer
from prefopt.reference.held import HeldReference
from tests.engine.rows import random_rows
from tests.models import tiny_model

LOSS = prefopt.get_loss("dpo")
ROWS = random_rows("pairs", 8)


def trees(rows):
    return Assembly.of(rows, LOSS).trees()


def test_held_values_are_those_of_the_live_model_in_any_batch_and_order():
    scorer = Scorer(tiny_model("llama"))
    held = HeldReference.of(scorer, trees(ROWS), tokens_per_microbatch=50)
    assert held.num_completions == 16
    assert held.num_bytes == 4 * sum(own.num_scored for row in ROWS for own in row.completions)
    for rows in (ROWS, ROWS[::-1], ROWS[2:5]):
        found = held.score(trees(rows), tokens_per_microbatch=1)
        live = scorer.score(trees(rows), tokens_per_microbatch=10**6)
        assert found.lengths == live.lengths
        torch.testing.assert_close(found.values, live.values, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.sums, live.sums, rtol=1e-5, atol=0)


def test_the_mask_of_scored_tokens_is_part_of_what_is_held():
    scorer = Scorer(tiny_model("llama"))
    one = Tree((1, 2), ((0, Completion((3, 4), (True, True))), (1, Completion((3, 4), (False, True)))))
    held = HeldReference.of(scorer, [one], tokens_per_microbatch=50)
    assert held.num_completions == 2
    assert held.score([one], tokens_per_microbatch=50).lengths == (2, 1)


def test_a_completion_that_was_not_scored_is_no_silent_zero():
    held = HeldReference.of(Scorer(tiny_model("llama")), trees(ROWS[:2]), tokens_per_microbatch=50)
    with pytest.raises(KeyError):
        held.score(trees(ROWS[2:]), tokens_per_microbatch=50)
