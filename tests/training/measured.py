"""One step of a random policy and what was measured of it, in one process or in two."""

from __future__ import annotations

import dataclasses

import torch

import prefopt
from prefopt.engine.accumulation import accumulate
from prefopt.engine.logps import Scorer
from prefopt.engine.ranks import ALONE
from prefopt.training.measures import step_measures
from tests.engine.rows import random_rows
from tests.models import tiny_model

NUM_ROWS = 7  # no number of ranks or micro-batches divides it
CASES = [
    ("dpo", "pairs"),
    ("simpo", "pairs"),
    ("kto", "pairs"),
    ("kto", "labels"),
    ("dpo", "rankings"),
    ("pl_dpo", "rankings"),
    ("sft", "demonstrations"),
    ("tdpo1", "pairs"),
    ("beta_dpo", "pairs"),
]


def measured(name, kind, *, tokens_per_microbatch=10**6, ranks=ALONE, dtype=torch.float64):
    """The measures, and the step's result."""
    loss = prefopt.get_loss(name)
    policy, reference = (Scorer(tiny_model("llama", seed=seed, dtype=dtype)) for seed in (0, 1))
    rows = random_rows(kind, NUM_ROWS)
    if kind == "rankings":  # of unequal length, so that rows hold unequal numbers of pairs
        rows[2] = dataclasses.replace(rows[2], completions=rows[2].completions[:2])
    result = accumulate(
        policy,
        reference if loss.needs.reference else None,
        loss,
        rows,
        tokens_per_microbatch=tokens_per_microbatch,
        ranks=ranks,
    )
    return step_measures(loss, result), result
